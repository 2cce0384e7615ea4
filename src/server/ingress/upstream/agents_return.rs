//! Requests that wait for an agent to connect: after a restart with inherited sockets, because visitors are there before the
//! agents, and those of an [`EventSource`](crate::server::ingress::patience).

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use crate::limits::{AddressPermit, PerAddress, Permit, Permits};

/// How long after the start a request may wait. Agents that were cut off are mostly back by then.
const AGENTS_RETURN: Duration = Duration::from_secs(5);

/// Requests that may wait at once, and how many of one address.
const WAITING: usize = 4096;
const WAITING_OF_ADDRESS: NonZeroU32 = NonZeroU32::new(256).expect("256 is not zero");

/// Says which requests wait for an agent.
#[derive(Debug)]
pub(crate) struct AgentsReturn {
    /// Until when all requests wait. `None` if the sockets are this server's own: no visitor was there before it.
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

    /// Returns until when a request of `visitor` may wait for an agent, and the permit to hold meanwhile; `None` if it may not.
    /// `patience` is until when it waits also without a restart.
    pub(crate) fn wait(&self, visitor: IpAddr, patience: Option<Instant>) -> Option<(Instant, Wait)> {
        let until = self.until.max(patience).filter(|until| *until > Instant::now())?;
        let address = self.waiting_of.try_acquire(visitor)?;
        Some((until, Wait { address, total: self.waiting.try_acquire()? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_wait_after_a_start_with_inherited_sockets_only() {
        let visitor = [192, 0, 2, 1].into();
        assert!(AgentsReturn::new(false, 64).wait(visitor, None).is_none());
        let fresh = AgentsReturn::new(true, 64);
        let (until, held) = fresh.wait(visitor, None).unwrap();
        assert_eq!(until, Instant::now() + AGENTS_RETURN);
        let more: Vec<_> = std::iter::from_fn(|| fresh.wait(visitor, None)).collect();
        assert_eq!(more.len(), 255, "one address has its share");
        assert!(fresh.wait([192, 0, 2, 2].into(), None).is_some());
        drop(held);
        assert!(fresh.wait(visitor, None).is_some());
        tokio::time::advance(AGENTS_RETURN).await;
        assert!(fresh.wait([192, 0, 2, 3].into(), None).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_patient_request_waits_at_any_time() {
        let (visitor, second) = ([192, 0, 2, 1].into(), Duration::from_secs(1));
        let (soon, late) = (Instant::now() + second, Instant::now() + AGENTS_RETURN + second);
        for (is_inherited, patience, expected) in
            [(false, soon, soon), (true, soon, Instant::now() + AGENTS_RETURN), (true, late, late)]
        {
            let (until, _) = AgentsReturn::new(is_inherited, 64).wait(visitor, Some(patience)).unwrap();
            assert_eq!(until, expected);
        }
        assert!(AgentsReturn::new(false, 64).wait(visitor, Some(Instant::now())).is_none());
    }
}
