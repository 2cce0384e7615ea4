//! Names the limits in the log that refuse requests.

use std::net::IpAddr;
use std::time::Duration;

use crate::limits::LogThrottle;
use crate::server::metrics::Limit;
use crate::values::ClientId;

/// How long a limit that goes on refusing requests is not named again.
const PAUSE: Duration = Duration::from_secs(60);

/// Writes a line when a limit refuses a request, and not again for [`PAUSE`].
#[derive(Debug)]
pub(crate) struct RefusalLog([LogThrottle; Limit::WORDS.len()]);

impl Default for RefusalLog {
    fn default() -> Self {
        Self(std::array::from_fn(|_| LogThrottle::every(PAUSE)))
    }
}

impl RefusalLog {
    /// Records that `limit` has refused a request of `visitor`.
    pub(crate) fn refused(&self, limit: Limit, visitor: IpAddr, client: Option<&ClientId>) {
        let Some(others) = self.0.get(limit as usize).and_then(LogThrottle::turn) else { return };
        let client = client.map_or("", ClientId::as_str);
        tracing::warn!(%visitor, client, limit = settings_of(limit), others, "a limit refuses requests");
    }
}

/// Returns the keys that set a limit.
fn settings_of(limit: Limit) -> &'static str {
    match limit {
        Limit::Connections => "limits.connections",
        Limit::ConnectionsPerIp => "limits.per_ip.connections",
        Limit::RatePerIp => {
            "limits.per_ip.requests_per_second and burst (logins_per_minute for passwords), or limits of the service"
        }
        Limit::RatePerClient => "limits.per_client.requests_per_second and burst, or limits of the client",
        Limit::Streams => {
            "limits.streams, limits.per_tunnel, streams of the client or the service, or max_streams of the agent"
        }
        Limit::StreamsPerIp => "limits.per_ip.streams",
        Limit::Access => "limits.held_bodies, or the queue for passwords",
        Limit::LoginsUnderWay | Limit::FailedLogins | Limit::AdminTokens => "limits.per_ip.logins_per_minute",
        Limit::HeldHeads => "limits.held_heads",
    }
}
