//! What goes to the agent first: the visitor's head, as the application gets it.

use bytes::{Bytes, BytesMut};
use http::header::UPGRADE;
use http::{Method, Request, Version};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;

use super::Target;
use crate::limits::FREE_HEAD;
use crate::protocol::WireError;
use crate::protocol::destination::{DESTINATION, strip_destination};
use crate::protocol::exchange::RequestHead;
use crate::protocol::frame;
use crate::protocol::login::ServiceKind;
use crate::protocol::preface::Preface;
use crate::routing;
use crate::server::ingress::error_page::Failure;
use crate::server::ingress::headers::{self, Forwarding};
use crate::server::ingress::pipeline::context::RequestContext;
use crate::server::ingress::pipeline::request_body::RequestBody;

/// Makes the visitor's head the one that the application gets. Gives back the visitor's half of an upgrade, or of an
/// extended CONNECT.
pub(crate) fn rewrite(
    context: &RequestContext<'_>,
    target: &Target,
    request: &mut Request<RequestBody>,
    has_body: bool,
) -> Option<OnUpgrade> {
    let protocol = headers::strip_hop_by_hop(request.headers_mut());
    let upgrade = match protocol {
        _ if request.method() == Method::CONNECT => Some(hyper::upgrade::on(&mut *request)),
        // An upgrade of a request with a body (RFC 9110, section 7.8) may be ignored, and nobody sends one.
        Some(protocol) if !has_body && request.version() == Version::HTTP_11 => {
            request.headers_mut().insert(UPGRADE, protocol);
            Some(hyper::upgrade::on(&mut *request))
        }
        _ => None,
    };
    if request.version() == Version::HTTP_2 {
        headers::join_cookies(request.headers_mut());
    }
    let (connection, settings) = (context.connection, context.settings);
    let forwarding = Forwarding {
        visitor: context.visitor,
        peer: (connection.peer.ip(), &connection.peer_value),
        peer_is_trusted: connection.peer_is_trusted(settings),
        scheme: connection.scheme,
        authority: target.authority.as_ref(),
        prefix: target.prefix(),
        request_id: context.request_id,
        forwarded: settings.config.public.forwarded,
    };
    if headers::add_forwarding(request.headers_mut(), &forwarding) {
        connection.ingress.proxy_hint.record(connection.peer.ip());
    }
    upgrade
}

/// Preface and head in one piece, so that they leave in one frame; with the end, if nothing follows. Takes the fields
/// and the target out of the request: nobody needs them afterwards.
pub(crate) fn encode_request(
    context: &RequestContext<'_>,
    target: &Target,
    request: &mut Request<RequestBody>,
    has_body: bool,
    upgrades: bool,
    protocol: Option<&Protocol>,
) -> Result<BytesMut, Failure> {
    if let Some(name) = target.prefix()
        && request.headers().contains_key(DESTINATION)
    {
        let (method, authority) = (request.method().clone(), target.authority.as_deref());
        strip_destination(&method, request.headers_mut(), &format!("/{name}"), authority)
            .map_err(|_| Failure::BadRequest)?;
    }
    // All of it lies in the buffer that the head was read into, which the connection wants back.
    let (headers, uri) = (std::mem::take(request.headers_mut()), std::mem::take(request.uri_mut()));
    let path = uri.path_and_query().map_or("/", |target| target.as_str());
    let path = if target.prefix().is_some() { routing::strip_name(path) } else { path };
    let preface = Preface {
        service: target.name().clone(),
        visitor: (context.visitor, context.connection.peer.port()).into(),
        server: context.connection.local,
        kind: ServiceKind::Http,
        request_id: context.request_id,
    };
    let head = RequestHead {
        method: request.method().clone(),
        scheme: context.connection.scheme,
        authority: target.authority.clone(),
        // `http://host?query` and `/name?query` have an empty path, which is `/` (RFC 9112, section 3.2.1).
        target: match path.as_bytes().first() {
            Some(b'/' | b'*') => Bytes::copy_from_slice(path.as_bytes()),
            _ => format!("/{path}").into(),
        },
        protocol: protocol.map(|protocol| Bytes::copy_from_slice(protocol.as_ref())),
        version: request.version(),
        headers,
        has_body,
    };
    let mut first = BytesMut::with_capacity(1024);
    let put = preface.put(&mut first).and_then(|()| head.put(&mut first));
    put.map_err(|error| match error {
        WireError::TooLarge(_) => Failure::HeadTooLarge,
        _ => Failure::BadRequest,
    })?;
    if !has_body && !upgrades {
        frame::put_end(&mut first);
    }
    // It may have to be held until the answer comes: without the room that it has grown into.
    if first.len() > FREE_HEAD {
        first = BytesMut::from(&first[..]);
    }
    Ok(first)
}
