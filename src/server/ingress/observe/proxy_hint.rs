//! Notices that `public.trusted_proxies` seems to be missing.

use std::net::IpAddr;

use parking_lot::Mutex;

/// Requests of one address, more than of all others together, after which the hint is logged.
const MANY: u32 = 50;

/// Looks for one address that sends most requests with `X-Forwarded-For`, although it is not trusted to: probably a proxy in
/// front. Then all visitors share the limits of one address. Keeps one address, whatever visitors send.
#[derive(Debug, Default)]
pub(crate) struct ProxyHint(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    candidate: Option<IpAddr>,
    /// How many more requests the candidate has sent than others.
    lead: u32,
    is_logged: bool,
}

impl ProxyHint {
    /// Records a request of `peer`, which is not trusted, with `X-Forwarded-For`. Logs the hint once.
    pub(crate) fn record(&self, peer: IpAddr) {
        if self.is_due(peer) {
            tracing::warn!(
                %peer,
                "many requests come from one address and name other visitors in X-Forwarded-For; if it is a proxy of yours, list \
                 it in public.trusted_proxies: until then, all its visitors share the limits of one address"
            );
        }
    }

    fn is_due(&self, peer: IpAddr) -> bool {
        let mut seen = self.0.lock();
        if seen.is_logged {
            return false;
        }
        if seen.lead == 0 {
            seen.candidate = Some(peer);
        }
        seen.lead = if seen.candidate == Some(peer) { seen.lead + 1 } else { seen.lead - 1 };
        seen.is_logged = seen.lead >= MANY;
        seen.is_logged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_with_many_requests_is_named_once() {
        let (hint, proxy, other) = (ProxyHint::default(), [192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        for _ in 0..1000 {
            assert!(!hint.is_due(proxy) && !hint.is_due(other), "neither has most of them");
        }
        let at = (1..).find(|_| hint.is_due(proxy)).unwrap();
        assert_eq!(at, MANY);
        assert!(!(0..200).any(|_| hint.is_due(proxy)), "it was said");
    }
}
