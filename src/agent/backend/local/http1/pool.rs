//! Idle connections to one application, and which request may use which of them.
//!
//! Invariant: a visitor never receives bytes that the application sent in answer to another visitor's request. An
//! application can send bytes after a response that was complete: a body after `304 Not Modified`, more bytes than
//! `Content-Length` announced, a second response. Once such bytes arrive after the next request was written, nothing
//! distinguishes them from its response. Therefore:
//!
//! - a connection is *fresh* for [`QUIET`] after a response, and only the visitor who got that response may use it again;
//! - after a response without a body, or one that was complete before its request was, nobody may, ever: such a connection
//!   is not put here;
//! - any byte, and the end of the connection, discards an idle connection: fresh ones are checked before reuse and when
//!   they cease to be fresh, all others are watched.
//!
//! An application that stays silent for [`QUIET`] and sends such bytes later, just when the connection is used again, is
//! not recognised.

mod closing;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::wire::Wire;
use closing::Closing;

/// Idle connections kept for each local address: as many as requests may run at once. With fewer, each wave of
/// visitors beyond that number pays for new connections (at 256 visitors a request then cost a third more).
const IDLE_CONNECTIONS: usize = 1024;

/// How long an idle connection is kept. Node.js, uvicorn and Apache close theirs after 5 s: a request that is sent at that
/// moment would be lost.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(4);

/// How long a connection must be silent before it may carry another visitor's request. Longer than what an application
/// takes to go on after a response that was complete; visitors who come within it of each other have one connection each.
pub(super) const QUIET: Duration = Duration::from_millis(500);

/// The idle connections of one application.
#[derive(Debug)]
pub(super) struct Pool {
    idle: Mutex<Idle<Arc<Wire>>>,
    bell: Arc<Bell>,
    /// The watcher runs here while there are idle connections.
    tasks: TaskTracker,
    /// Tells the watcher that the pool is gone.
    gone: watch::Sender<()>,
    closing: Closing,
}

/// An idle connection that was taken for a request.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) wire: Arc<Wire>,
    /// When its last response ended.
    pub(super) since: Instant,
}

/// A connection without a request.
#[derive(Debug)]
struct Kept<W> {
    /// Counts the connections that were put into the pool.
    number: u64,
    since: Instant,
    wire: W,
}

/// A connection whose last response ended less than [`QUIET`] ago.
#[derive(Debug)]
struct Fresh<W> {
    kept: Kept<W>,
    /// The visitor who may use it at once.
    visitor: SocketAddr,
    /// The one before it that the same visitor may use.
    earlier: Option<u64>,
}

#[derive(Debug)]
struct Idle<W> {
    /// In the order of their numbers, which are consecutive; `None` where one was taken, but not at either end.
    fresh: VecDeque<Option<Fresh<W>>>,
    /// How many there are in `fresh`.
    fresh_count: usize,
    /// The number behind the last one in `fresh`. A quiet connection's is always smaller.
    next_number: u64,
    /// The latest fresh connection of each visitor. Every request looks here: the hasher is a fast one.
    latest: HashMap<SocketAddr, u64, RandomState>,
    /// Silent for [`QUIET`], in the order of their numbers. The last `unarmed` are not watched yet.
    quiet: VecDeque<Kept<W>>,
    unarmed: usize,
    /// When the watcher looks next; `None` if there is none.
    next_look: Option<Instant>,
}

impl<W> Idle<W> {
    fn new() -> Self {
        Self {
            fresh: VecDeque::new(),
            fresh_count: 0,
            next_number: 0,
            latest: HashMap::default(),
            quiet: VecDeque::new(),
            unarmed: 0,
            next_look: None,
        }
    }

    fn insert(&mut self, wire: W, visitor: SocketAddr, now: Instant) {
        let number = self.next_number;
        self.next_number += 1;
        let earlier = self.latest.insert(visitor, number);
        self.fresh.push_back(Some(Fresh { kept: Kept { number, since: now, wire }, visitor, earlier }));
        self.fresh_count += 1;
    }

    /// Takes a fresh connection out by its number, if it is still there.
    fn take_fresh(&mut self, number: u64) -> Option<Fresh<W>> {
        let from_end = usize::try_from(self.next_number - number).ok()?;
        let place = self.fresh.len().checked_sub(from_end)?;
        let fresh = self.fresh.get_mut(place)?.take()?;
        self.fresh_count -= 1;
        while self.fresh.pop_back_if(|last| last.is_none()).is_some() {
            self.next_number -= 1;
        }
        while self.fresh.pop_front_if(|first| first.is_none()).is_some() {}
        Some(fresh)
    }

    /// The fresh connection that `visitor` used last.
    fn take_own(&mut self, visitor: SocketAddr) -> Option<Kept<W>> {
        let number = *self.latest.get(&visitor)?;
        let fresh = self.take_fresh(number);
        match fresh.as_ref().and_then(|fresh| fresh.earlier).filter(|earlier| self.is_fresh(*earlier)) {
            Some(earlier) => self.latest.insert(visitor, earlier),
            None => self.latest.remove(&visitor),
        };
        fresh.map(|fresh| fresh.kept)
    }

    fn is_fresh(&self, number: u64) -> bool {
        self.next_number - number <= self.fresh.len() as u64
    }

    /// Takes the oldest fresh connection, if it was put here by `until`.
    fn pop_fresh(&mut self, until: Instant) -> Option<Kept<W>> {
        let oldest = self.fresh.front()?.as_ref()?;
        if oldest.kept.since > until {
            return None;
        }
        let oldest = self.fresh.pop_front()??;
        self.fresh_count -= 1;
        while self.fresh.pop_front_if(|first| first.is_none()).is_some() {}
        if self.latest.get(&oldest.visitor) == Some(&oldest.kept.number) {
            self.latest.remove(&oldest.visitor);
        }
        Some(oldest.kept)
    }

    /// Moves what is fresh no longer.
    fn settle(&mut self, now: Instant) {
        let Some(until) = now.checked_sub(QUIET) else { return };
        while let Some(kept) = self.pop_fresh(until) {
            self.quiet.push_back(kept);
            self.unarmed += 1;
        }
    }

    /// A connection that `visitor` may use: its own last one, or the one that was used last of those that are quiet.
    fn take(&mut self, visitor: SocketAddr, now: Instant) -> Option<Kept<W>> {
        if let Some(own) = self.take_own(visitor) {
            return Some(own);
        }
        self.settle(now);
        let kept = self.quiet.pop_back()?;
        self.unarmed = self.unarmed.saturating_sub(1);
        Some(kept)
    }

    fn len(&self) -> usize {
        self.fresh_count + self.quiet.len()
    }

    /// Makes room for one more; gives back the oldest connection if there was none.
    fn make_room(&mut self, now: Instant) -> Option<W> {
        if self.len() < IDLE_CONNECTIONS {
            return None;
        }
        self.pop_oldest(now)
    }

    /// Takes the connection that has been idle for longest.
    fn pop_oldest(&mut self, now: Instant) -> Option<W> {
        let oldest = self.quiet.pop_front().or_else(|| self.pop_fresh(now));
        self.unarmed = self.unarmed.min(self.quiet.len());
        oldest.map(|kept| kept.wire)
    }

    /// The place of a quiet connection.
    fn place(&self, number: u64) -> Option<usize> {
        self.quiet.binary_search_by_key(&number, |kept| kept.number).ok()
    }

    /// When something is to be done next.
    fn next(&self) -> Option<Instant> {
        let fresh = self.fresh.front().and_then(Option::as_ref).map(|fresh| fresh.kept.since + QUIET);
        let quiet = self.quiet.front().map(|kept| kept.since + IDLE_TIME);
        fresh.into_iter().chain(quiet).min()
    }
}

impl Pool {
    /// The watcher runs on `tasks`.
    pub(super) fn new(tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self {
            idle: Mutex::new(Idle::new()),
            bell: Arc::default(),
            tasks,
            gone: watch::Sender::new(()),
            closing: Closing::default(),
        })
    }

    /// Returns a connection for a request of `visitor`, on which nothing has arrived as far as the system knows.
    pub(super) fn take(&self, visitor: SocketAddr) -> Option<Taken> {
        let now = Instant::now();
        loop {
            let Kept { wire, since, .. } = self.idle.lock().take(visitor, now)?;
            if wire.has_expired(now) {
                continue;
            }
            if wire.reuse(visitor) {
                return Some(Taken { wire, since });
            }
            self.closing.was_closed(since, now);
        }
    }

    /// Records that a connection whose last response ended at `since` ended when it was used again.
    pub(super) fn was_closed(&self, since: Instant) {
        self.closing.was_closed(since, Instant::now());
    }

    /// Records that a connection was used again.
    pub(super) fn was_reused(&self) {
        self.closing.was_reused();
    }

    /// Keeps a connection, unless it is too old or the application closes its connections after each response. `visitor`
    /// may reuse it immediately, other visitors once it is quiet.
    pub(super) fn keep(self: &Arc<Self>, wire: Arc<Wire>, visitor: SocketAddr) {
        let now = Instant::now();
        if self.closing.is_expected(now) || wire.has_expired(now) {
            return;
        }
        let look = now + QUIET;
        let mut idle = self.idle.lock();
        let oldest = idle.make_room(now);
        idle.insert(wire, visitor, now);
        match idle.next_look {
            None => {
                idle.next_look = Some(look);
                self.tasks.spawn(watch(Arc::downgrade(self), Arc::clone(&self.bell), self.gone.subscribe(), look));
            }
            Some(next) if next > look => {
                idle.next_look = Some(look);
                self.bell.notify.notify_one();
            }
            Some(_) => {}
        }
        drop(idle);
        drop(oldest);
    }

    /// How many idle connections there are.
    pub(super) fn len(&self) -> usize {
        self.idle.lock().len()
    }

    /// Closes the connection that has been idle for longest; says how many are left, `None` if there was none.
    pub(super) fn close_oldest(&self) -> Option<usize> {
        let (oldest, left) = {
            let mut idle = self.idle.lock();
            (idle.pop_oldest(Instant::now())?, idle.len())
        };
        drop(oldest);
        Some(left)
    }

    /// Discards connections that have been idle for too long or have received data, and starts to watch those that have
    /// become quiet. Returns when to run again; `None` if the pool is empty.
    fn look(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut discarded = Vec::new();
        {
            let mut idle = self.idle.lock();
            idle.settle(now);
            while idle.quiet.front().is_some_and(|kept| now.duration_since(kept.since) >= IDLE_TIME) {
                discarded.extend(idle.quiet.pop_front());
            }
            idle.unarmed = idle.unarmed.min(idle.quiet.len());
        }
        for number in self.bell.rung() {
            let mut idle = self.idle.lock();
            if let Some(place) = idle.place(number)
                && !self.arm(&idle.quiet[place])
            {
                discarded.extend(idle.quiet.remove(place));
            }
        }
        // One at a time: a request that wants a connection waits for no more than one system call.
        loop {
            let mut idle = self.idle.lock();
            let Some(place) = idle.quiet.len().checked_sub(idle.unarmed).filter(|_| idle.unarmed > 0) else { break };
            idle.unarmed -= 1;
            if !self.arm(&idle.quiet[place]) {
                discarded.extend(idle.quiet.remove(place));
            }
        }
        let closed = discarded.iter().filter(|kept| now.duration_since(kept.since) < IDLE_TIME);
        closed.for_each(|kept| self.closing.was_closed(kept.since, now));
        drop(discarded);
        let mut idle = self.idle.lock();
        idle.next_look = idle.next();
        idle.next_look
    }

    /// Registers the bell for a connection; returns `false` if something has already arrived. Call it only for a connection
    /// in the pool, while the pool is locked, because it reads.
    fn arm(&self, kept: &Kept<Arc<Wire>>) -> bool {
        let waker = Waker::from(Arc::new(Alarm { number: kept.number, bell: Arc::clone(&self.bell) }));
        kept.wire.poll_quiet(&mut Context::from_waker(&waker))
    }
}

/// Tells the watcher which connections to look at.
#[derive(Debug, Default)]
struct Bell {
    rung: Mutex<Vec<u64>>,
    notify: Notify,
}

impl Bell {
    fn rung(&self) -> Vec<u64> {
        std::mem::take(&mut *self.rung.lock())
    }
}

/// Rings when something arrives on one connection. The runtime's driver calls it, so it only records the connection.
struct Alarm {
    number: u64,
    bell: Arc<Bell>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.bell.rung.lock().push(self.number);
        self.bell.notify.notify_one();
    }
}

/// Watches the idle connections of a pool until it is empty or dropped.
async fn watch(pool: Weak<Pool>, bell: Arc<Bell>, mut gone: watch::Receiver<()>, mut next: Instant) {
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = bell.notify.notified() => {}
            // The sender never sends: this resolves when it is dropped.
            _ = gone.changed() => return,
        }
        match pool.upgrade().and_then(|pool| pool.look()) {
            Some(at) => next = at,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A connection of the model: who used it last, and when.
    type Used = (SocketAddr, Instant);

    #[derive(Debug, Clone)]
    enum Step {
        Keep { visitor: u16 },
        Take { visitor: u16 },
        Wait { millis: u64 },
        Look,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..4_u16).prop_map(|visitor| Step::Keep { visitor }),
            4 => (0..4_u16).prop_map(|visitor| Step::Take { visitor }),
            2 => (0..750_u64).prop_map(|millis| Step::Wait { millis }),
            1 => Just(Step::Look),
        ]
    }

    fn address(visitor: u16) -> SocketAddr {
        ([192, 0, 2, 1], visitor).into()
    }

    proptest! {
        /// A connection that was used less than `QUIET` ago goes to the visitor who used it; one that may be used is found;
        /// and nothing is lost or invented.
        #[test]
        fn nobody_gets_what_another_has_just_used(steps in prop::collection::vec(step(), 0..200)) {
            let mut idle = Idle::<Used>::new();
            let mut now = Instant::now();
            let mut kept: Vec<Used> = Vec::new();
            for step in steps {
                match step {
                    Step::Keep { visitor } => {
                        let used = (address(visitor), now);
                        idle.insert(used, used.0, now);
                        kept.push(used);
                    }
                    Step::Wait { millis } => now += Duration::from_millis(millis),
                    Step::Look => idle.settle(now),
                    Step::Take { visitor } => {
                        let visitor = address(visitor);
                        let may = |used: &Used| now - used.1 >= QUIET || used.0 == visitor;
                        match idle.take(visitor, now) {
                            Some(Kept { wire: used, .. }) => {
                                prop_assert!(may(&used), "{visitor} got {used:?}");
                                let place = kept.iter().position(|other| *other == used);
                                kept.swap_remove(place.expect("it was kept"));
                            }
                            None => prop_assert!(!kept.iter().any(may), "{visitor} got none of {kept:?}"),
                        }
                    }
                }
                prop_assert_eq!(idle.fresh_count + idle.quiet.len(), kept.len());
                prop_assert_eq!(idle.fresh.iter().flatten().count(), idle.fresh_count);
                prop_assert!(idle.latest.len() <= idle.fresh_count && idle.unarmed <= idle.quiet.len());
                prop_assert!(idle.quiet.iter().map(|kept| kept.number).is_sorted_by(|one, next| one < next));
            }
        }
    }

    #[test]
    fn no_more_than_so_many_are_kept() {
        let (mut idle, mut now) = (Idle::new(), Instant::now());
        for number in 0..2 * IDLE_CONNECTIONS {
            let oldest = idle.make_room(now);
            assert_eq!(oldest, number.checked_sub(IDLE_CONNECTIONS));
            idle.insert(number, address(1), now);
            now += QUIET / 64;
        }
        assert_eq!(idle.fresh_count + idle.quiet.len(), IDLE_CONNECTIONS);
    }
}
