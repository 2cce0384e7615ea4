//! The requests of one connection that are in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One more request, in the upper half of the counter. The lower half counts the requests in flight.
const ONE_MORE: u64 = 1 << 32;

/// Counts the requests of a connection, and those in flight.
#[derive(Debug, Clone, Default)]
pub(crate) struct InFlight(Arc<AtomicU64>);

/// Counts one request as in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlightGuard(Arc<AtomicU64>);

impl InFlight {
    /// Records that a request has begun.
    pub(crate) fn begin(&self) -> InFlightGuard {
        self.0.fetch_add(ONE_MORE + 1, Ordering::AcqRel);
        InFlightGuard(Arc::clone(&self.0))
    }

    /// Returns how many requests are in flight.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire) % ONE_MORE
    }

    /// Returns a value that changes whenever a request begins or ends, and whether no request is in flight. It is 0
    /// before the first request.
    pub(crate) fn snapshot(&self) -> (u64, bool) {
        let now = self.0.load(Ordering::Acquire);
        (now, now.is_multiple_of(ONE_MORE))
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
