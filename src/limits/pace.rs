//! Delays what goes a little beyond a rate, instead of refusing it.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::Quota;
use governor::middleware::StateSnapshot;

use super::RetryAfter;

/// The longest delay.
pub const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// How many requests beyond one burst are delayed at once.
const MAX_RESERVE: u32 = 1024;

/// A request that is beyond the burst. It may go on after the delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the request has to wait"]
pub struct Delay {
    /// How long it waits; [`LONGEST_DELAY`] at most.
    pub time: Duration,
    /// With what it is refused, if it cannot wait.
    pub refusal: RetryAfter,
}

/// A quota with a reserve: cells beyond the burst, whose takers have to wait until the quota would give them one. So they go
/// on in the order in which they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    quota: Quota,
    reserve: u32,
}

impl Pace {
    /// Without a reserve.
    pub(super) fn strict(quota: Quota) -> Self {
        Self { quota, reserve: 0 }
    }

    /// With the cells that come back within [`LONGEST_DELAY`] as a reserve.
    pub(super) fn delayed(quota: Quota) -> Self {
        let cells = LONGEST_DELAY.as_nanos() / quota.replenish_interval().as_nanos().max(1);
        Self { quota, reserve: u32::try_from(cells).unwrap_or(MAX_RESERVE).min(MAX_RESERVE) }
    }

    /// The quota without the reserve.
    pub(super) fn quota(self) -> Quota {
        self.quota
    }

    /// The quota of the limiter.
    pub(super) fn whole(self) -> Quota {
        let burst = self.quota.burst_size();
        self.quota.allow_burst(NonZeroU32::new(burst.get().saturating_add(self.reserve)).unwrap_or(burst))
    }

    /// How long the taker of the last cell has to wait, after which this is the state.
    pub(super) fn delay(self, after: &StateSnapshot) -> Option<Delay> {
        let borrowed = self.reserve.saturating_sub(after.remaining_burst_capacity());
        let time = self.quota.replenish_interval() * borrowed;
        (borrowed > 0).then(|| Delay { time, refusal: RetryAfter::of(LONGEST_DELAY, self.quota) })
    }
}
