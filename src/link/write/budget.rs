//! Admission to a session's send queue: back-pressure on the writers of streams, and the order in which they write.
//!
//! What is admitted leaves in the order of admission, so the queue is first in, first out, and short. A writer that finds
//! no room waits here, not in the queue. Sparse streams, which have sent little lately, go first; bulk streams take turns.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::rate::{LinkRate, MAX_LIMIT};
use super::{FRAME_HEADER, MAX_PAYLOAD};

/// Bytes of data that a session queues at most: bulk up to [`MAX_LIMIT`], and two [`RESERVE`]s.
pub const MAX_QUEUED: usize = MAX_LIMIT + 2 * RESERVE;

/// Bytes of the queue beyond the limit for bulk that only sparse streams use. The same again is for messages that would be
/// lost if they had to wait.
pub(super) const RESERVE: usize = 32 * 1024;

/// Bytes that a stream sends as a sparse one. After it has missed a round of the bulk streams, it may send as many again.
pub(super) const SPARSE: usize = 16 * 1024;

/// Bytes that sparse streams send while a bulk stream waits, before the bulk stream has its turn.
pub(super) const OVERTAKING: usize = 64 * 1024;

/// Bytes: a writer waits rather than queue a smaller part of what it has.
const MIN_GRANT: usize = 4 * 1024;

/// What a stream waits as. Sparse streams sort first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Sparse,
    Bulk,
}

/// The place of a waiting writer, in order of admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ticket {
    class: Class,
    number: u64,
}

/// Where the writer of one stream stands.
#[derive(Debug, Default)]
pub struct StreamSends {
    /// Its place among the waiting writers. If no writer waits there, it is this writer's turn.
    ticket: Option<Ticket>,
    /// Bytes that remain of its turn.
    turn: usize,
    /// Bytes that it has sent since it last counted as sparse.
    burst: usize,
    /// The number of the next ticket when it last wrote.
    last: u64,
}

/// The data in a session's send queue, in bytes, and the writers that wait for room in it.
///
/// Data frames count with their headers, from [`SendBudget::poll_admit`] to [`SendBudget::sent`].
#[derive(Debug, Default)]
pub struct SendBudget(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Bytes admitted and not yet taken by the pipe.
    queued: usize,
    rate: LinkRate,
    waiting: BTreeMap<Ticket, Waker>,
    /// The number of the next ticket.
    next: u64,
    /// Bytes that sparse streams have sent since a bulk stream had its turn.
    overtaken: usize,
    is_closed: bool,
}

impl SendBudget {
    /// Admits up to `length` bytes (not 0) of `stream` as one frame and returns how many. Waits for room.
    ///
    /// The caller queues them at once and returns the rest with [`SendBudget::give_back`]. Cancel-safe; a caller that does
    /// not poll again holds up no other writer.
    pub fn poll_admit(&self, stream: &mut StreamSends, cx: &mut Context<'_>, length: usize) -> Poll<usize> {
        let state = &mut *self.0.lock();
        if state.is_closed {
            return Poll::Ready(length);
        }
        if let Some(waker) = stream.ticket.and_then(|ticket| state.waiting.get_mut(&ticket)) {
            waker.clone_from(cx.waker());
            return Poll::Pending;
        }
        let ticket = stream.ticket.take();
        if ticket.is_some() {
            stream.turn = state.rate.quantum();
        }
        match state.admit(stream, length) {
            Ok(granted) => Poll::Ready(granted),
            Err(class) => {
                // A writer whose turn it was keeps its place.
                let ticket = ticket.unwrap_or_else(|| state.ticket(class));
                state.waiting.insert(ticket, cx.waker().clone());
                (stream.ticket, stream.turn) = (Some(ticket), 0);
                Poll::Pending
            }
        }
    }

    /// As [`SendBudget::poll_admit`], for a message that is lost if it has to wait: it may use the last of the queue.
    pub fn admit_now(&self, stream: &mut StreamSends, length: usize) -> Option<usize> {
        let state = &mut *self.0.lock();
        if state.is_closed {
            return Some(length);
        }
        state.take(stream, length, state.rate.limit() + 2 * RESERVE)
    }

    /// Takes back what of `granted` was not queued. If nothing was, there is no frame at all.
    pub fn give_back(&self, stream: &mut StreamSends, granted: usize, queued: usize) {
        if granted == queued {
            return;
        }
        let mut state = self.0.lock();
        let unused = granted - queued;
        let header = if queued == 0 { FRAME_HEADER } else { 0 };
        state.queued = state.queued.saturating_sub(unused + header);
        stream.burst = stream.burst.saturating_sub(unused);
        if state.waiting.is_empty() {
            return;
        }
        if state.queued == 0 {
            // Nothing will leave that wakes writers: each looks for itself.
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            waiting.into_values().for_each(Waker::wake);
        } else {
            drop(state);
            self.wake_next();
        }
    }

    /// The pipe has taken `bytes` of the queue. Wakes the writers for which there is room now.
    ///
    /// Returns whether writers wait although the queue is empty, because those that were woken have not written yet. They
    /// may never do so; the caller calls again soon, with 0.
    pub fn sent(&self, bytes: usize) -> bool {
        let mut state = self.0.lock();
        state.queued = state.queued.saturating_sub(bytes);
        if state.waiting.is_empty() {
            state.rate.no_demand();
            return false;
        }
        state.rate.sent(bytes);
        drop(state);
        self.wake_next();
        let state = self.0.lock();
        state.queued == 0 && !state.waiting.is_empty()
    }

    /// The stream is gone: its writer waits no more.
    pub fn forget(&self, stream: &mut StreamSends) {
        if let Some(ticket) = stream.ticket.take() {
            let waker = self.0.lock().waiting.remove(&ticket);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// The session has ended: every writer is woken, and nothing counts any more.
    pub fn close(&self) {
        let mut state = self.0.lock();
        state.is_closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_values().for_each(Waker::wake);
    }

    /// Returns how many bytes of data are queued.
    #[cfg(test)]
    pub fn queued(&self) -> usize {
        self.0.lock().queued
    }

    /// Returns how many bytes of bulk data may be queued now.
    #[cfg(test)]
    pub fn limit(&self) -> usize {
        self.0.lock().rate.limit()
    }

    /// Wakes as many writers as there is room for. Not under the lock: a waker may run code that takes it.
    fn wake_next(&self) {
        let mut promised = 0;
        loop {
            let next = self.0.lock().next_writer(promised);
            let Some((waker, bytes)) = next else { return };
            promised += bytes;
            waker.wake();
        }
    }
}

impl State {
    /// Admits what a stream may queue now, or says what it has to wait as.
    fn admit(&mut self, stream: &mut StreamSends, length: usize) -> Result<usize, Class> {
        if stream.turn > 0 {
            let most = length.min(stream.turn);
            let granted = self.take(stream, most, self.rate.limit() + RESERVE).ok_or(Class::Bulk)?;
            stream.turn -= granted;
            return Ok(granted);
        }
        if self.is_sparse(stream, length) {
            let waits = self.first_class();
            let is_bulks_turn = waits.is_some() && self.overtaken >= OVERTAKING;
            if waits == Some(Class::Sparse) || is_bulks_turn {
                return Err(Class::Sparse);
            }
            let granted = self.take(stream, length, self.rate.limit() + RESERVE).ok_or(Class::Sparse)?;
            if waits.is_some() {
                self.overtaken += granted;
            }
            return Ok(granted);
        }
        if !self.waiting.is_empty() {
            return Err(Class::Bulk);
        }
        self.take(stream, length, self.rate.limit()).ok_or(Class::Bulk)
    }

    /// Takes up to `length` bytes, if that fills the queue to at most `bound`.
    fn take(&mut self, stream: &mut StreamSends, length: usize, bound: usize) -> Option<usize> {
        let room = bound.saturating_sub(self.queued + FRAME_HEADER);
        if room < length.min(MIN_GRANT) {
            return None;
        }
        let granted = length.min(MAX_PAYLOAD).min(room);
        self.queued += granted + FRAME_HEADER;
        stream.burst = stream.burst.saturating_add(granted);
        stream.last = self.next;
        Some(granted)
    }

    /// Whether a stream has sent little, or has let all bulk streams that waited when it last wrote have their turn.
    fn is_sparse(&self, stream: &mut StreamSends, length: usize) -> bool {
        if length > SPARSE {
            return false;
        }
        if stream.burst + length > SPARSE {
            let oldest = self.first_bulk().map(|ticket| ticket.number);
            if !oldest.map_or(self.next > stream.last, |number| number >= stream.last) {
                return false;
            }
            stream.burst = 0;
        }
        true
    }

    fn ticket(&mut self, class: Class) -> Ticket {
        let number = self.next;
        self.next += 1;
        Ticket { class, number }
    }

    fn first_class(&self) -> Option<Class> {
        self.waiting.first_key_value().map(|(ticket, _)| ticket.class)
    }

    fn first_bulk(&self) -> Option<Ticket> {
        let first = Ticket { class: Class::Bulk, number: 0 };
        self.waiting.range(first..).next().map(|(ticket, _)| *ticket)
    }

    /// Takes out the writer whose turn it is, and returns how many bytes it will write, if there is room beside the
    /// `promised` ones.
    fn next_writer(&mut self, promised: usize) -> Option<(Waker, usize)> {
        let first = *self.waiting.first_key_value()?.0;
        let overdue = if self.overtaken >= OVERTAKING { self.first_bulk() } else { None };
        let is_privileged = first.class == Class::Sparse || overdue.is_some();
        let bound = self.rate.limit() + if is_privileged { RESERVE } else { 0 };
        if self.queued + promised + FRAME_HEADER + MIN_GRANT > bound {
            return None;
        }
        let ticket = overdue.unwrap_or(first);
        if ticket.class == Class::Bulk {
            self.overtaken = 0;
        }
        let waker = self.waiting.remove(&ticket)?;
        let bytes = if ticket.class == Class::Bulk { self.rate.quantum() } else { MIN_GRANT };
        Some((waker, bytes))
    }
}
