//! What the requests of one HTTP connection share.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;

use http::HeaderValue;
use http_body::Body;
use ipnet::IpNet;

use crate::limits::{Permit, Permits};
use crate::protocol::exchange::Scheme;
use crate::server::http_connection::lingering_close::{MAX_DISCARDS, discard};
use crate::server::http_connection::socket::ConnectionSignals;
use crate::server::ingress::Ingress;
use crate::server::ingress::entry::admission::{Admission, ConnectionPermits};
use crate::server::ingress::entry::h2_stall::StallDetector;
use crate::server::ingress::error_page::Failure;
use crate::server::ingress::headers;
use crate::server::ingress::pipeline::request_body::RequestBody;
use crate::server::settings::Settings;
use crate::transport::streams::Passes;

/// The divisor of the free capacity that one address may take.
pub(crate) const FAIR_SHARE: NonZeroUsize = NonZeroUsize::new(16).expect("16 is not zero");

/// How many requests one address may have open in any case.
const MIN_STREAMS: usize = 64;

/// An HTTP connection of a visitor, as its requests see it.
#[derive(Debug)]
pub(crate) struct ConnectionContext {
    pub(crate) ingress: Arc<Ingress>,
    pub(crate) peer: SocketAddr,
    /// The peer's address as a header value.
    pub(crate) peer_value: HeaderValue,
    pub(crate) local: SocketAddr,
    pub(crate) scheme: Scheme,
    /// What its requests tell the socket.
    pub(crate) signals: ConnectionSignals,
    /// What only HTTP/2 needs.
    pub(crate) http2: Option<Http2State>,
    /// Over HTTP/2: notifies requests when their data was written.
    pub(crate) passes: Passes,
    permits: ConnectionPermits,
}

/// The state of an HTTP/2 connection.
#[derive(Debug)]
pub(crate) struct Http2State {
    /// Detects a visitor that reads none of its responses.
    pub(crate) stall: StallDetector,
    /// Request bodies that may be discarded at once.
    discards: Permits,
}

impl Default for Http2State {
    fn default() -> Self {
        Self { stall: StallDetector::default(), discards: Permits::new(MAX_DISCARDS) }
    }
}

impl ConnectionContext {
    /// Makes an admitted connection an HTTP connection. Releases its settings: each request uses those of its time.
    pub(crate) fn new(
        admission: Admission,
        scheme: Scheme,
        signals: ConnectionSignals,
        http2: Option<Http2State>,
    ) -> Arc<Self> {
        let Admission { ingress, settings: _, peer, local, permits } = admission;
        let (peer_value, passes) = (headers::address_value(peer.ip()), Passes::default());
        Arc::new(Self { ingress, peer, peer_value, local, scheme, signals, http2, passes, permits })
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.http2.is_some()
    }

    /// Over HTTP/2: reads and discards the rest of a request that was answered early. Does nothing if too many are being
    /// discarded.
    pub(crate) fn discard_body(&self, body: RequestBody) {
        let permit = self.http2.as_ref().and_then(|http2| http2.discards.try_acquire());
        if let Some(permit) = permit.filter(|_| !body.is_end_stream()) {
            let (stop, body) = (self.ingress.runtime.shutdown.stop.clone(), body.without_asking());
            self.ingress.spawn(async move {
                let _permit = permit;
                stop.run_until_cancelled(discard(body)).await;
            });
        }
    }

    pub(crate) fn peer_is_trusted(&self, settings: &Settings) -> bool {
        is_trusted(settings, self.peer.ip())
    }

    /// Takes the request's share of what its address may have open; `None` if the peer is a trusted proxy.
    ///
    /// # Errors
    /// The address has as many open requests as allowed.
    pub(crate) fn stream_permit(&self, settings: &Settings) -> Result<Option<Permit>, Failure> {
        let Some(address) = &self.permits.address else { return Ok(None) };
        let share = self.ingress.directory.streams.fair_share(FAIR_SHARE, MIN_STREAMS);
        address.stream(settings.config.limits.per_ip.streams, share).map(Some).ok_or(Failure::AddressBusy)
    }
}

/// Returns whether `ip` is a proxy that may set forwarding headers.
pub(crate) fn is_trusted(settings: &Settings, ip: IpAddr) -> bool {
    contains(&settings.config.public.trusted_proxies, ip)
}

/// Returns whether one of `networks` contains `ip`.
pub(crate) fn contains(networks: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    networks.iter().any(|network| network.contains(&ip))
}
