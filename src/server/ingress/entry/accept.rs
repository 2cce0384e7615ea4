//! Accepts connections and detects their protocol: HTTP/1, HTTP/2, or TLS that the application terminates.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::protocol::exchange::Scheme;
use crate::protocol::login::ServiceKind;
use crate::routing::Asked;
use crate::server::directory::offered::Offered;
use crate::server::http_connection::maybe_tls::MaybeTlsStream;
use crate::server::http_connection::socket::{ConnectionSignals, HttpSocket};
use crate::server::ingress::connection::{ConnectionContext, Http2State};
use crate::server::ingress::entry::admission::{Admission, canonical};
use crate::server::ingress::entry::preamble::{Preamble, TlsHello};
use crate::server::ingress::entry::{http, raw};
use crate::server::ingress::upstream::lookup;
use crate::server::ingress::{Entrypoint, Ingress};
use crate::transport::tls;
use crate::values::Name;

/// Accepts a connection to a public listener; does not wait.
pub(crate) fn accept_http(ingress: &Arc<Ingress>, socket: TcpStream, peer: SocketAddr, entrypoint: Entrypoint) {
    if let Some(admission) = Admission::new(ingress, &socket, peer) {
        ingress.spawn(serve(admission, socket, entrypoint));
    }
}

/// Accepts a connection to the port of the `tcp` service `name`; does not wait.
pub(crate) fn accept_raw(ingress: &Arc<Ingress>, socket: TcpStream, peer: SocketAddr, name: &Name) {
    let offered = ingress.directory.registry.by_name(name);
    let Some(offered) = offered.filter(|offered| offered.service.kind() == ServiceKind::Tcp) else {
        return raw::reset(&socket);
    };
    let admission = Admission::new(ingress, &socket, peer);
    // No PROXY protocol on these ports: the peer itself is counted.
    if let Some(mut admission) = admission
        && (!admission.is_proxied() || admission.count_address())
    {
        ingress.spawn(async move { raw::serve(admission, offered, socket, &[]).await });
    }
}

/// What a connection carries.
enum Detected {
    Http {
        stream: MaybeTlsStream,
        is_http2: bool,
        scheme: Scheme,
    },
    /// TLS for an application, with the bytes read so far.
    Tls {
        offered: Arc<Offered>,
        socket: TcpStream,
        ahead: Bytes,
    },
}

/// Serves a connection to its end.
async fn serve(mut admission: Admission, socket: TcpStream, entrypoint: Entrypoint) {
    let (ingress, timeouts) = (Arc::clone(&admission.ingress), admission.settings.config.timeouts);
    let detected = tokio::select! {
        biased;
        detected = timeout(timeouts.head, detect(&mut admission, socket, entrypoint)) => detected,
        // No request has arrived yet.
        () = ingress.runtime.shutdown.stop.cancelled() => return,
    };
    let peer = admission.peer;
    match detected {
        Ok(Ok(Detected::Http { stream, is_http2, scheme })) => {
            let (signals, head_size) = (ConnectionSignals::default(), admission.settings.config.limits.head_size);
            let socket = HttpSocket::new(stream, signals.clone(), &timeouts);
            let http2 = is_http2.then(Http2State::default);
            let connection = ConnectionContext::new(admission, scheme, signals, http2);
            if is_http2 {
                // Boxed, so that the more common HTTP/1.1 connections take less memory.
                Box::pin(http::serve_http2(connection, socket, head_size, timeouts.idle)).await;
            } else {
                http::serve_http1(connection, socket, head_size).await;
            }
        }
        Ok(Ok(Detected::Tls { offered, socket, ahead })) => {
            Box::pin(raw::serve(admission, offered, socket, &ahead)).await;
        }
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a visitor's connection ended before its first request"),
        Err(_) => tracing::debug!(%peer, "a visitor's connection did not get as far as its first request"),
    }
}

async fn detect(admission: &mut Admission, socket: TcpStream, entrypoint: Entrypoint) -> io::Result<Detected> {
    let mut preamble = Preamble::new(socket);
    if admission.is_proxied() {
        if let Some((source, destination)) = preamble.proxied().await? {
            (admission.peer, admission.local) = (canonical(source), canonical(destination));
        }
        if !admission.count_address() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
    }
    if entrypoint == Entrypoint::Http {
        let (is_http2, ahead, socket) = preamble.http_version().await?;
        let stream = MaybeTlsStream::Plain(ahead, socket);
        return Ok(Detected::Http { stream, is_http2, scheme: Scheme::Http });
    }
    let TlsHello { name, handshake, ahead } = preamble.tls_hello().await?;
    if let Some(offered) = name.and_then(|name| tls_passthrough(admission, &name)) {
        return Ok(Detected::Tls { offered, socket: handshake.io, ahead });
    }
    let tls = admission.ingress.tls.as_ref().ok_or_else(|| io::Error::other("there is no certificate"))?;
    let stream = Box::pin(handshake.into_stream(Arc::clone(tls))).await?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2);
    Ok(Detected::Http { stream: MaybeTlsStream::Tls(Box::new(stream)), is_http2, scheme: Scheme::Https })
}

/// Returns the service at `host` that terminates TLS itself, if there is one.
fn tls_passthrough(admission: &Admission, host: &str) -> Option<Arc<Offered>> {
    let route = admission.settings.router.route(Asked { authority: Some(host), path: "", header: None });
    let directory = &admission.ingress.directory;
    let offered = lookup::find(&*directory.registry, &directory.clients, &route).ok();
    offered.filter(|offered| offered.service.kind() == ServiceKind::Tls)
}
