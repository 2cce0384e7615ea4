//! Visitors: from the TCP socket to the end of each request.
//!
//! `arrival` finds out what a visitor speaks, `connection` serves it as HTTP over a `wire` with the deadlines of `socket`;
//! `copied` takes heads out of its buffer, `targets` finds requests whose target hyper would change.
//! `request` decides where a request goes (`lookup`), `access` whether it gets there (it may have to hold its `body` for
//! that, which has to come at a `pace`), `course` which of several agents gets it, `forward` takes it there and brings the answer (`forwarded`), `headers` rewrites
//! what a proxy must rewrite, `answer` is what a visitor gets when it cannot be had, and `ledger` is where every way out
//! ends, with a `span` for those who trace; `ending` delivers what came before a response broke off, `live` lists what has not ended yet, `stalls` notices answers that nobody takes. `rest` is what comes of a request that was answered already, and `raw` is for
//! connections that are not HTTP.

pub(crate) mod entry;
pub(crate) mod error_page;
pub(crate) mod forward;
pub(crate) mod headers;
pub(crate) mod limits;
pub(crate) mod observe;
pub(crate) mod pipeline;
pub(crate) mod upstream;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use http_body::Body;
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::metrics::Limit;
use crate::limits::{AddressPermit, Permit, Permits, Seldom};
use crate::protocol::exchange::Scheme;
use crate::protocol::login::ServiceKind;
use crate::routing::Asked;
use crate::server::directory::Directory;
use crate::server::directory::offered::Offered;
use crate::server::directory::ports::{OpenPort, PortServer};
use crate::server::ingress::entry::ending::Ending;
use crate::server::ingress::entry::h2_stall::Stalls;
use crate::server::ingress::entry::lingering_close::Unread;
use crate::server::ingress::entry::preamble::{Arrival, TlsHello};
use crate::server::ingress::entry::visitor_socket::{Turns, VisitorSocket};
use crate::server::ingress::entry::wire::Wire;
pub(crate) use crate::server::ingress::error_page::CODES;
use crate::server::ingress::error_page::Failure;
use crate::server::ingress::limits::VisitorLimits;
use crate::server::ingress::observe::live_requests::LiveRequests;
use crate::server::ingress::pipeline::request_body::RequestBody;
use crate::server::runtime::{Runtime, until_cut};
use crate::server::settings::Settings;
use crate::telemetry::Traces;
use crate::transport::listen;
use crate::transport::streams::Passes;
use crate::transport::tls;
use crate::values::Name;

/// The part of the connections, and of the requests, that are left which one address may have; and what it may have in
/// any case: a browser opens six connections.
const SHARE: NonZeroUsize = NonZeroUsize::new(16).expect("16 is not zero");
const LEAST_CONNECTIONS: usize = 8;
const LEAST_STREAMS: usize = 64;

/// What visitors' connections share.
#[derive(Debug)]
pub(crate) struct Ingress {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) directory: Arc<Directory>,
    /// TLS of the HTTPS listener, if there is one.
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    pub(crate) limits: VisitorLimits,
    /// The requests and connections in progress.
    pub(crate) live: Arc<LiveRequests>,
    pub(crate) traces: Traces,
    /// Limits the log lines about connections that were closed because of `limits.connections`.
    pub(crate) connection_closed: Seldom,
}

impl Ingress {
    /// Returns the current settings. Call it once for each connection or request.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.runtime.settings()
    }

    /// Accepts visitors until the server stops.
    pub(crate) fn accept(self: Arc<Self>, listener: TcpListener, door: Door) -> impl Future<Output = ()> {
        let stop = self.runtime.shutdown.stop.clone();
        listen::accept_loop(listener, stop, move |socket, peer| accept_visitor(&self, socket, peer, door))
    }
}

/// Serves the public ports of `tcp` services.
#[derive(Debug)]
pub(crate) struct PublicPorts(pub(crate) Arc<Ingress>);

impl PortServer for PublicPorts {
    fn serve_port(&self, port: &OpenPort, listener: TcpListener) {
        let (ingress, name) = (Arc::clone(&self.0), port.name.clone());
        let accept = listen::accept_loop(listener, port.closed(), move |socket, peer| {
            accept_connection(&ingress, socket, peer, &name);
        });
        let runtime = &self.0.runtime;
        runtime.tasks.all.spawn(until_cut(runtime.shutdown.stop.clone(), accept));
    }
}

/// A visitor's connection, as its requests see it.
#[derive(Debug)]
pub(crate) struct Visit {
    ingress: Arc<Ingress>,
    peer: SocketAddr,
    /// Its address, as every request's head tells it.
    peer_text: HeaderValue,
    local: SocketAddr,
    scheme: Scheme,
    /// Tells the socket how to end.
    ending: Arc<Ending>,
    /// Tells the socket when a request is under way.
    turns: Turns,
    /// Tells the socket that the visitor may still be sending a body.
    unread: Unread,
    /// Over HTTP/2: whether what its requests gave to it was written.
    passes: Passes,
    /// Over HTTP/2: whether the visitor takes what it has asked for.
    stalls: Option<Stalls>,
    /// Over HTTP/2: rests of requests that may be read at once which nobody wants.
    rests: Option<Permits>,
    /// What it was let in with.
    permits: (Permit, Option<AddressPermit>),
}

impl Visit {
    fn new(
        (ingress, peer, local, scheme): (Arc<Ingress>, SocketAddr, SocketAddr, Scheme),
        (ending, turns, unread, stalls): (Arc<Ending>, Turns, Unread, Option<Stalls>),
        permits: (Permit, Option<AddressPermit>),
    ) -> Arc<Self> {
        let peer_text = headers::address_value(peer.ip());
        let passes = Passes::default();
        let rests = stalls.is_some().then(|| Permits::new(crate::server::ingress::entry::lingering_close::AT_ONCE));
        Arc::new(Self {
            ingress,
            peer,
            peer_text,
            local,
            scheme,
            ending,
            turns,
            unread,
            passes,
            stalls,
            rests,
            permits,
        })
    }

    fn is_http2(&self) -> bool {
        self.rests.is_some()
    }

    /// Reads and throws away what still comes of a request over HTTP/2 that has its answer; not of too many at once.
    fn throw_away(&self, body: RequestBody) {
        let permit = self.rests.as_ref().and_then(Permits::try_acquire);
        if let Some(permit) = permit.filter(|_| !body.is_end_stream()) {
            let stop = self.ingress.runtime.shutdown.stop.clone();
            let rest = async move {
                let _permit = permit;
                stop.run_until_cancelled(crate::server::ingress::entry::lingering_close::discard(body)).await;
            };
            self.ingress
                .runtime
                .tasks
                .visitors
                .spawn(crate::server::runtime::until_cut(self.ingress.runtime.shutdown.cut.clone(), rest));
        }
    }

    fn peer_is_trusted(&self, settings: &Settings) -> bool {
        is_trusted(settings, self.peer.ip())
    }

    /// The share of one request in what its address may have open at once; a trusted proxy's requests have none.
    fn stream(&self, settings: &Settings) -> Result<Option<Permit>, Failure> {
        let Some(address) = &self.permits.1 else { return Ok(None) };
        let share = self.ingress.directory.streams.fair_share(SHARE, LEAST_STREAMS);
        address.stream(settings.config.limits.per_ip.streams, share).map(Some).ok_or(Failure::AddressBusy)
    }
}

fn is_trusted(settings: &Settings, ip: IpAddr) -> bool {
    contains(&settings.config.public.trusted_proxies, ip)
}

fn contains(networks: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    networks.iter().any(|network| network.contains(&ip))
}

/// An IPv4 visitor of an IPv6 socket is an IPv4 visitor.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Where visitors come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// `public.http`
    Http,
    /// `public.https`
    Https,
}

/// A visitor that was let in, before anything is known of what it wants.
#[derive(Debug)]
pub(crate) struct Admission {
    ingress: Arc<Ingress>,
    /// What it goes by for as long as nothing is known of what it wants, and a connection that is not HTTP to its end.
    settings: Arc<Settings>,
    peer: SocketAddr,
    local: SocketAddr,
    /// Its share of all connections, and of its address's.
    permits: (Permit, Option<AddressPermit>),
}

impl Admission {
    /// Lets in whom the limits allow. Others are closed without a word: saying one costs more.
    fn new(ingress: &Arc<Ingress>, socket: &TcpStream, peer: SocketAddr) -> Option<Self> {
        let Some(connection) = ingress.limits.connections.try_acquire() else {
            ingress.runtime.metrics.limited(Limit::Connections);
            if let Some(others) = ingress.connection_closed.turn() {
                tracing::warn!(%peer, others, "closed a connection: there are as many as there may be (`limits.connections`)");
            }
            return None;
        };
        let (peer, local) = (canonical(peer), canonical(socket.local_addr().ok()?));
        let (ingress, settings) = (Arc::clone(ingress), ingress.settings());
        let mut admission = Self { ingress, settings, peer, local, permits: (connection, None) };
        // Who a proxy speaks for is not known yet.
        if !admission.is_proxied() && !admission.count_address() {
            return None;
        }
        if let Err(error) = crate::server::ingress::entry::visitor_socket::bound_unsent(socket) {
            tracing::debug!(%peer, %error, "the kernel holds as much for this visitor as it likes");
        }
        Some(admission)
    }

    /// Whether the connection begins with a PROXY protocol header.
    fn is_proxied(&self) -> bool {
        contains(&self.settings.config.public.proxy_protocol_from, self.peer.ip())
    }

    /// Takes the address's share; `false` if it has none left. A trusted proxy brings many visitors over one address.
    fn count_address(&mut self) -> bool {
        let Self { ingress, settings, peer, permits, .. } = self;
        if is_trusted(settings, peer.ip()) {
            return true;
        }
        let share = ingress.limits.connections.fair_share(SHARE, LEAST_CONNECTIONS);
        permits.1 = ingress.limits.connections_by_address.try_acquire_within(peer.ip(), share);
        if permits.1.is_none() {
            ingress.runtime.metrics.limited(Limit::ConnectionsPerIp);
            tracing::debug!(%peer, "closed a connection: the address has as many as it may");
        }
        permits.1.is_some()
    }
}

/// Takes a visitor in; does not wait.
pub(crate) fn accept_visitor(ingress: &Arc<Ingress>, socket: TcpStream, peer: SocketAddr, door: Door) {
    if let Some(admission) = Admission::new(ingress, &socket, peer) {
        ingress.runtime.tasks.visitors.spawn(crate::server::runtime::until_cut(
            ingress.runtime.shutdown.cut.clone(),
            arrive(admission, socket, door),
        ));
    }
}

/// Takes in a connection to the port of the `tcp` service `name`; does not wait.
pub(crate) fn accept_connection(ingress: &Arc<Ingress>, socket: TcpStream, peer: SocketAddr, name: &Name) {
    let offered = ingress.directory.registry.by_name(name);
    let Some(offered) = offered.filter(|offered| offered.service.kind() == ServiceKind::Tcp) else {
        return crate::server::ingress::entry::raw::reset(&socket);
    };
    let admission = Admission::new(ingress, &socket, peer);
    // No PROXY protocol here: whoever connects counts.
    if let Some(mut admission) = admission
        && (!admission.is_proxied() || admission.count_address())
    {
        let serve = async move { crate::server::ingress::entry::raw::serve(admission, offered, socket, &[]).await };
        ingress
            .runtime
            .tasks
            .visitors
            .spawn(crate::server::runtime::until_cut(ingress.runtime.shutdown.cut.clone(), serve));
    }
}

/// What a visitor turned out to want.
enum Wanted {
    /// HTTP, over this wire; HTTP/2 if so.
    Http(Wire, bool, Scheme),
    /// An application's own TLS, with what was read of it so far.
    Tls(Arc<Offered>, TcpStream, Bytes),
}

/// From a fresh connection to its end.
async fn arrive(mut admission: Admission, socket: TcpStream, door: Door) {
    let (ingress, timeouts) = (Arc::clone(&admission.ingress), admission.settings.config.timeouts);
    let wanted = tokio::select! {
        biased;
        wanted = timeout(timeouts.head, what_it_wants(&mut admission, socket, door)) => wanted,
        // Nothing was asked yet.
        () = ingress.runtime.shutdown.stop.cancelled() => return,
    };
    let peer = admission.peer;
    match wanted {
        Ok(Ok(Wanted::Http(wire, is_http2, scheme))) => {
            let ending = Arc::new(Ending::default());
            let (turns, unread) = (Turns::default(), Unread::default());
            let signs = (Arc::clone(&ending), turns.clone(), unread.clone());
            let socket = VisitorSocket::new(wire, signs, &timeouts);
            let stalls = is_http2.then(Stalls::default);
            let Admission { ingress, settings, peer, local, permits } = admission;
            let head_size = settings.config.limits.head_size;
            // Each request takes what counts by then.
            drop(settings);
            let visit = Visit::new((ingress, peer, local, scheme), (ending, turns, unread, stalls), permits);
            match is_http2 {
                // In boxes, so that the many that are HTTP/1.1 do not take as much room.
                true => {
                    Box::pin(crate::server::ingress::entry::http::serve_http2(
                        visit,
                        socket,
                        (head_size, timeouts.idle),
                    ))
                    .await
                }
                false => crate::server::ingress::entry::http::serve_http1(visit, socket, head_size).await,
            }
        }
        Ok(Ok(Wanted::Tls(offered, socket, ahead))) => {
            Box::pin(crate::server::ingress::entry::raw::serve(admission, offered, socket, &ahead)).await;
        }
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a visitor's connection ended before its first request"),
        Err(_) => tracing::debug!(%peer, "a visitor's connection did not get as far as its first request"),
    }
}

async fn what_it_wants(admission: &mut Admission, socket: TcpStream, door: Door) -> io::Result<Wanted> {
    let mut arrival = Arrival::new(socket);
    if admission.is_proxied() {
        if let Some((source, destination)) = arrival.proxied().await? {
            (admission.peer, admission.local) = (canonical(source), canonical(destination));
        }
        if !admission.count_address() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
    }
    if door == Door::Http {
        let (is_http2, ahead, socket) = arrival.http_version().await?;
        return Ok(Wanted::Http(Wire::Plain(ahead, socket), is_http2, Scheme::Http));
    }
    let ingress = &admission.ingress;
    let TlsHello { name, handshake, ahead } = arrival.tls_hello().await?;
    if let Some(offered) = name.and_then(|name| passes_through(admission, &name)) {
        return Ok(Wanted::Tls(offered, handshake.io, ahead));
    }
    let tls = ingress.tls.as_ref().ok_or_else(|| io::Error::other("there is no certificate"))?;
    let stream = Box::pin(handshake.into_stream(Arc::clone(tls))).await?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2);
    Ok(Wanted::Http(Wire::Tls(Box::new(stream)), is_http2, Scheme::Https))
}

/// The service whose own TLS a visitor of `host` gets, if there is one.
fn passes_through(admission: &Admission, host: &str) -> Option<Arc<Offered>> {
    let route = admission.settings.router.route(Asked { authority: Some(host), path: "", header: None });
    crate::server::ingress::upstream::lookup::offered(&admission.ingress, &route)
        .ok()
        .filter(|offered| offered.service.kind() == ServiceKind::Tls)
}
