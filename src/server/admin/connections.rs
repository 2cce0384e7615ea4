//! Limits connections to the admin port, and closes idle ones to make room for new ones.
//!
//! A connection costs its owner nothing, so a plain limit would lock the operator out: any program on the machine could
//! occupy all of them. Here the server closes an idle connection when a new one needs room. It never closes a connection
//! with a request in flight, or one that has recently sent the admin token. So silent, idle and slow callers keep their
//! connections only until others need them, and the operator's requests are never interrupted.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::limits::{AddressKey, LogThrottle};

/// Maximum number of connections. Tools and probes need a few.
pub(crate) const CONNECTIONS: usize = 64;

/// Maximum number of connections while closed ones are still shutting down. A burst of new connections is accepted before
/// the tasks of closed ones run.
const WITH_CLOSING: usize = 16 * CONNECTIONS;

/// How long a connection is protected after a request with the token: its response or the next request may be in transit.
const SPARED: Duration = Duration::from_secs(30);

/// As `limits.per_ip.ipv6_prefix` is by default.
const IPV6_PREFIX: u8 = 64;

/// All connections are in use and none may be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// The connections to the admin port.
pub(crate) struct Connections {
    open: Mutex<Vec<Arc<State>>>,
    log_throttle: LogThrottle,
}

/// The place of one connection. Dropping it releases the place.
pub(crate) struct Connection {
    all: Arc<Connections>,
    state: Arc<State>,
}

/// A request in flight on a connection. Dropping it marks the request as answered.
pub(crate) struct InFlight {
    state: Arc<State>,
    trusted: bool,
}

struct State {
    /// Programs on this machine count as one peer: they may connect from any address of 127.0.0.0/8.
    peer: AddressKey,
    activity: Mutex<Activity>,
    /// Whether it was told to close.
    closing: CancellationToken,
}

struct Activity {
    requests: u32,
    /// When the last request ended; `None` while one is in flight.
    idle_since: Instant,
    /// Until when it is protected although it is idle.
    spared_until: Option<Instant>,
}

impl State {
    /// Returns since when it has been idle, if it may be closed.
    fn idle_since(&self, now: Instant) -> Option<Instant> {
        let activity = self.activity.lock();
        let is_free = activity.requests == 0 && activity.spared_until.is_none_or(|until| until <= now);
        is_free.then_some(activity.idle_since)
    }
}

impl Connections {
    /// Creates an empty set.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), log_throttle: LogThrottle::new(NonZeroU32::MIN) })
    }

    /// Reserves a place for a connection of `peer`; closes an idle connection if all places are in use.
    ///
    /// # Errors
    /// All places are in use and no connection is idle.
    pub(crate) fn admit(self: &Arc<Self>, peer: SocketAddr) -> Result<Connection, Full> {
        let now = Instant::now();
        let mut open = self.open.lock();
        let staying = open.iter().filter(|state| !state.closing.is_cancelled()).count();
        if staying >= CONNECTIONS {
            let idle = (open.len() < WITH_CLOSING).then(|| longest_idle(&open, now)).flatten();
            if let Some(others) = self.log_throttle.turn() {
                let made_room = idle.is_some();
                tracing::warn!(%peer, made_room, others, "the admin port is busy: there are {CONNECTIONS} connections to it");
            }
            idle.ok_or(Full)?.closing.cancel();
        }
        let activity = Activity { requests: 0, idle_since: now, spared_until: None };
        let state =
            Arc::new(State { peer: key(peer.ip()), activity: Mutex::new(activity), closing: CancellationToken::new() });
        open.push(Arc::clone(&state));
        Ok(Connection { all: Arc::clone(self), state })
    }
}

/// Returns the peer that an address belongs to.
fn key(ip: IpAddr) -> AddressKey {
    let ip = if ip.to_canonical().is_loopback() { Ipv4Addr::LOCALHOST.into() } else { ip };
    AddressKey::new(ip, IPV6_PREFIX)
}

/// Returns the longest idle connection of the peer with the most connections.
fn longest_idle(open: &[Arc<State>], now: Instant) -> Option<&Arc<State>> {
    let idle: Vec<_> = open
        .iter()
        .filter(|state| !state.closing.is_cancelled())
        .filter_map(|state| Some((state, state.idle_since(now)?)))
        .collect();
    let share = |peer: AddressKey| idle.iter().filter(|(state, _)| state.peer == peer).count();
    let longest = idle.iter().max_by_key(|(state, since)| (share(state.peer), std::cmp::Reverse(*since)));
    longest.map(|(state, _)| *state)
}

impl Connection {
    /// Records a new request. `trusted` says whether it has the admin token.
    pub(crate) fn begin(&self, trusted: bool) -> InFlight {
        self.state.activity.lock().requests += 1;
        InFlight { state: Arc::clone(&self.state), trusted }
    }

    /// Waits until the connection has to close. It is idle then, or was a moment before.
    pub(crate) async fn has_to_close(&self) {
        self.state.closing.cancelled().await;
    }

    /// Returns whether a request is in flight.
    pub(crate) fn is_busy(&self) -> bool {
        self.state.activity.lock().requests > 0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let (mut activity, now) = (self.state.activity.lock(), Instant::now());
        activity.requests = activity.requests.saturating_sub(1);
        activity.idle_since = now;
        if self.trusted {
            activity.spared_until = Some(now + SPARED);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.all.open.lock().retain(|state| !Arc::ptr_eq(state, &self.state));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::advance;

    use super::*;

    fn peer(number: u8) -> SocketAddr {
        SocketAddr::new([192, 0, 2, number].into(), 1)
    }

    fn leaves(connection: &Connection) -> bool {
        connection.state.closing.is_cancelled()
    }

    fn filled(all: &Arc<Connections>) -> Vec<Connection> {
        (0..CONNECTIONS).map(|_| all.admit(peer(1)).unwrap()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_rested_longest_makes_room() {
        let all = Connections::new();
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            held.push(all.admit(peer(1)).unwrap());
            advance(Duration::from_millis(1)).await;
        }
        assert!(!held.iter().any(leaves));
        // The first has spoken meanwhile.
        drop(held[0].begin(false));
        held.push(all.admit(peer(1)).unwrap());
        assert!(leaves(&held[1]) && held.iter().filter(|one| leaves(one)).count() == 1);
        held.remove(1);
        held.remove(7);
        held.push(all.admit(peer(1)).unwrap());
        assert!(!held.iter().any(leaves), "one has left by itself");
    }

    #[tokio::test(start_paused = true)]
    async fn the_peer_that_has_most_makes_room() {
        let all = Connections::new();
        let one = all.admit(peer(2)).unwrap();
        advance(Duration::from_secs(1)).await;
        // From all over this machine, and it is one peer.
        let many: Vec<_> = (1..CONNECTIONS as u8)
            .map(|number| all.admit(SocketAddr::new([127, 0, number, 1].into(), 1)).unwrap())
            .collect();
        let _another = all.admit(peer(3)).unwrap();
        assert!(!leaves(&one) && many.iter().filter(|one| leaves(one)).count() == 1);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_and_those_who_have_shown_the_token_lately_are_spared() {
        let all = Connections::new();
        let held = filled(&all);
        let requests: Vec<_> = held.iter().map(|one| one.begin(false)).collect();
        assert_eq!(all.admit(peer(2)).err(), Some(Full));
        drop(requests);
        let _one = all.admit(peer(2)).unwrap();
        assert_eq!(held.iter().filter(|one| leaves(one)).count(), 1);

        let all = Connections::new();
        let held = filled(&all);
        for one in &held {
            drop(one.begin(true));
        }
        assert_eq!(all.admit(peer(2)).err(), Some(Full));
        advance(SPARED).await;
        let _one = all.admit(peer(2)).unwrap();
        assert_eq!(held.iter().filter(|one| leaves(one)).count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_do_not_leave_at_once_are_bounded() {
        let all = Connections::new();
        let held: Vec<_> = (0..WITH_CLOSING).map(|_| all.admit(peer(1)).unwrap()).collect();
        assert_eq!(all.admit(peer(1)).err(), Some(Full));
        drop(held);
        assert!(all.open.lock().is_empty());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Open(u8),
        Close(usize),
        Begin(usize, bool),
        End(usize),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..4_u8).prop_map(Step::Open),
            1 => any::<usize>().prop_map(Step::Close),
            3 => (any::<usize>(), any::<bool>()).prop_map(|(at, trusted)| Step::Begin(at, trusted)),
            2 => any::<usize>().prop_map(Step::End),
            1 => (0..20_000_u64).prop_map(Step::Wait),
        ]
    }

    /// A connection as this test sees it.
    struct Seen {
        connection: Connection,
        peer: u8,
        requests: Vec<InFlight>,
        trusted_at: Option<Instant>,
    }

    impl Seen {
        fn is_needed(&self) -> bool {
            !self.requests.is_empty() || self.trusted_at.is_some_and(|at| at.elapsed() < SPARED)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

        /// Whatever callers do: there is a place for the next one unless every connection is needed, one that is needed never
        /// makes room, and nor does that of a peer that rests on fewer than another.
        #[test]
        fn whoever_is_needed_stays_and_whoever_rests_makes_room(steps in prop::collection::vec(step(), 1..600)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let all = Connections::new();
                let mut seen: Vec<Seen> = Vec::new();
                for step in steps {
                    match step {
                        Step::Open(from) => {
                            let resting = |peer| seen.iter().filter(|one| one.peer == peer && !one.is_needed()).count();
                            let most = (0..4).map(resting).max().unwrap();
                            match all.admit(peer(from)) {
                                Ok(connection) => {
                                    if let Some(at) = seen.iter().position(|one| leaves(&one.connection)) {
                                        assert!(seen.len() >= CONNECTIONS && !seen[at].is_needed());
                                        assert_eq!(resting(seen[at].peer), most);
                                        seen.swap_remove(at);
                                    }
                                    seen.push(Seen { connection, peer: from, requests: Vec::new(), trusted_at: None });
                                }
                                Err(Full) => assert!(seen.iter().all(Seen::is_needed) && seen.len() == CONNECTIONS),
                            }
                        }
                        _ if seen.is_empty() => {}
                        Step::Close(at) => drop(seen.swap_remove(at % seen.len())),
                        Step::Begin(at, trusted) => {
                            let at = at % seen.len();
                            let request = seen[at].connection.begin(trusted);
                            seen[at].requests.push(request);
                        }
                        Step::End(at) => {
                            let at = at % seen.len();
                            if let Some(request) = seen[at].requests.pop() {
                                let trusted = request.trusted.then(Instant::now);
                                seen[at].trusted_at = trusted.or(seen[at].trusted_at);
                            }
                        }
                        Step::Wait(time) => advance(Duration::from_millis(time)).await,
                    }
                    assert!(seen.len() <= CONNECTIONS && all.open.lock().len() == seen.len());
                }
            });
        }
    }
}
