//! After a restart with inherited sockets, visitors are there before the agents: their requests wait for them.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use crate::limits::{AddressPermit, PerAddress, Permit, Permits};

/// How long after the start a request may wait. Agents that were cut off are mostly back by then.
const AGENTS_RETURN: Duration = Duration::from_secs(5);

/// Requests that may wait at once, and how many of one address.
const WAITING: usize = 4096;
const WAITING_OF_ADDRESS: NonZeroU32 = NonZeroU32::new(256).expect("256 is not zero");

/// Says which requests wait for an agent after the start of the server.
#[derive(Debug)]
pub(crate) struct AgentsReturn {
    /// `None` if the sockets are this server's own: no visitor was there before it.
    until: Option<Instant>,
    waiting: Permits,
    waiting_of: PerAddress,
}

/// Lets one request wait until it is dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "the permits are held, never read")]
pub(crate) struct Wait {
    address: AddressPermit,
    total: Permit,
}

impl AgentsReturn {
    /// Begins with the start of the server. `is_inherited` says whether visitors could connect before it.
    pub(crate) fn new(is_inherited: bool, ipv6_prefix: u8) -> Self {
        Self {
            until: is_inherited.then(|| Instant::now() + AGENTS_RETURN),
            waiting: Permits::new(WAITING),
            waiting_of: PerAddress::new(WAITING_OF_ADDRESS, ipv6_prefix),
        }
    }

    /// Returns how long a request of `visitor` may wait for an agent, and the permit to hold meanwhile; `None` if it may not.
    pub(crate) fn wait(&self, visitor: IpAddr) -> Option<(Duration, Wait)> {
        let left = self.until?.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        let address = self.waiting_of.try_acquire(visitor)?;
        Some((left, Wait { address, total: self.waiting.try_acquire()? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_wait_after_a_start_with_inherited_sockets_only() {
        let visitor = [192, 0, 2, 1].into();
        assert!(AgentsReturn::new(false, 64).wait(visitor).is_none());
        let fresh = AgentsReturn::new(true, 64);
        let (left, held) = fresh.wait(visitor).unwrap();
        assert!(left <= AGENTS_RETURN);
        let more: Vec<_> = std::iter::from_fn(|| fresh.wait(visitor)).collect();
        assert_eq!(more.len(), 255, "one address has its share");
        assert!(fresh.wait([192, 0, 2, 2].into()).is_some());
        drop(held);
        assert!(fresh.wait(visitor).is_some());
        let over = AgentsReturn { until: Instant::now().checked_sub(Duration::from_millis(1)), ..fresh };
        assert!(over.wait([192, 0, 2, 3].into()).is_none());
    }
}
