//! What a proxy must change in a head, and nothing more.

mod prefix;

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Request, Version};

use crate::protocol::exchange::Scheme;
use crate::protocol::fields::{self, Owned, Role};
use crate::routing;
use crate::values::{Name, RequestId};
pub(crate) use prefix::add_prefix;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Removes the fields that concern one connection only (RFC 9110, section 7.6.1), those named by `Connection`
/// included. Gives back the `Upgrade` that the connection asks for or agrees to, if there is one that may cross.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) -> Option<HeaderValue> {
    // Most heads have one of them at most: looking at the names that are there costs less than looking for each.
    let named: Vec<HeaderName> = headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
    if named.is_empty() {
        return None;
    }
    // The coding decides where the body ends, whatever length is named beside it (RFC 9112, section 6.3).
    if named.contains(&TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    let protocol = headers.get(UPGRADE).filter(|protocol| !carries_requests(protocol)).cloned();
    let mut asks = false;
    let connection: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    for option in connection.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')) {
        let option = option.trim();
        asks |= option.eq_ignore_ascii_case("upgrade");
        // What most say goes anyway.
        if option.eq_ignore_ascii_case("keep-alive") || option.eq_ignore_ascii_case("close") {
            continue;
        }
        match HeaderName::from_bytes(option.as_bytes()) {
            // These say where a message goes and how long it is: no connection option can take them away.
            Ok(HOST | CONTENT_LENGTH | TE) | Err(_) => {}
            Ok(name) => drop(headers.remove(name)),
        }
    }
    // Only `trailers` may be passed on (RFC 9110, section 10.1.4).
    let mut codings = headers.get_all(TE).iter().filter_map(|te| te.to_str().ok()).flat_map(|te| te.split(','));
    let trailers = codings.any(|coding| coding.trim().eq_ignore_ascii_case("trailers"));
    for name in named {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    protocol.filter(|_| asks)
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(*name, CONNECTION | PROXY_AUTHENTICATE | PROXY_AUTHORIZATION | TE | TRANSFER_ENCODING | UPGRADE)
        || *name == KEEP_ALIVE
        || *name == PROXY_CONNECTION
}

/// Whether an upgrade leads to a connection that carries requests itself (`h2c`, another HTTP, TLS with HTTP inside):
/// they would reach the application without anything that a proxy says and checks. Not upgrading is always allowed
/// (RFC 9110, section 7.8).
pub(crate) fn carries_requests(upgrade: &HeaderValue) -> bool {
    upgrade.as_bytes().split(|byte| *byte == b',').any(|protocol| {
        let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default().trim_ascii();
        [&b"h2c"[..], b"http", b"tls"].iter().any(|carrier| name.eq_ignore_ascii_case(carrier))
    })
}

/// Whether a request's body has another coding than one `chunked`, which is all that is taken off here: what is left
/// must not be passed on as if it were plain (RFC 9112, section 6.1).
pub(crate) fn has_other_coding(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter();
    lines.next().is_some_and(|coding| !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
        || lines.next().is_some()
}

/// On whose behalf a request is forwarded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Forwarding<'a> {
    pub(crate) visitor: IpAddr,
    /// The address of the connection: the visitor's own, or the last proxy's. Also as text.
    pub(crate) peer: (IpAddr, &'a HeaderValue),
    pub(crate) peer_is_trusted: bool,
    pub(crate) scheme: Scheme,
    pub(crate) authority: Option<&'a Bytes>,
    /// The name, on a path route.
    pub(crate) prefix: Option<&'a Name>,
    pub(crate) request_id: RequestId,
    /// Whether the application gets `Forwarded`, too.
    pub(crate) forwarded: bool,
}

/// Tells the application who asks for what. What a visitor says of itself under these names is replaced, unless a
/// trusted proxy says it. The addresses of trusted proxies are left out: they are the operator's, and an application at
/// home that does not know them would take the last of them for the visitor. Returns whether a peer that is not trusted has
/// named other visitors in `X-Forwarded-For`.
pub(crate) fn add_forwarding(headers: &mut HeaderMap, forwarding: &Forwarding<'_>) -> bool {
    let Forwarding { visitor, peer, peer_is_trusted, scheme, authority, prefix, request_id, forwarded } = *forwarding;
    let is_claimed = remove_forged(headers, peer_is_trusted, visitor);
    let (peer, peer_text) = peer;
    // Without empty elements, which an application would take for addresses (RFC 9110, section 5.6.1.1).
    let lines = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
    let elements = lines.flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let earlier: Vec<&[u8]> = elements.filter(|element| !element.is_empty()).collect();
    if earlier.is_empty() {
        headers.insert(FORWARDED_FOR, peer_text.clone());
    } else {
        let said = earlier.join(&b", "[..]);
        let chain = match visitor == peer {
            true => [&said, &b", "[..], peer_text.as_bytes()].concat(),
            false => up_to(&said, visitor).to_owned(),
        };
        put(headers, FORWARDED_FOR, chain);
    }
    if visitor == peer {
        headers.insert(REAL_IP, peer_text.clone());
    } else {
        headers.insert(REAL_IP, address_value(visitor));
    }
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme.as_str()));
    }
    if let Some(authority) = authority
        && !headers.contains_key(FORWARDED_HOST)
    {
        put(headers, FORWARDED_HOST, authority.clone());
    }
    if !headers.contains_key(REQUEST_ID) {
        put(headers, REQUEST_ID, request_id.to_string());
    }
    if forwarded {
        // Who comes through a trusted proxy is the visitor here, too, and came over what that one says.
        let (node, scheme) = match visitor == peer {
            true => (peer, scheme),
            false if came_over_https(headers) => (visitor, Scheme::Https),
            false => (visitor, Scheme::Http),
        };
        add_forwarded(headers, node, scheme, authority);
    }
    if let Some(name) = prefix {
        let before = headers.get(FORWARDED_PREFIX).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let prefix = format!("{}/{name}", before.trim_end_matches('/'));
        put(headers, FORWARDED_PREFIX, prefix);
    }
    is_claimed
}

/// Removes the fields that only a proxy may send, see [`fields`]. Always removes look-alikes: no proxy writes them, so a
/// trusted proxy must have forwarded them from its client. Of a trusted proxy's own fields, it keeps those with the client's
/// address only if they match the visitor in `X-Forwarded-For`: many proxies forward the client's values in the others.
fn remove_forged(headers: &mut HeaderMap, peer_is_trusted: bool, visitor: IpAddr) -> bool {
    let is_the_visitor = |value: &HeaderValue| address_in(value.as_bytes()) == Some(visitor);
    let goes = |name: &&HeaderName| match fields::owned(name.as_str()) {
        None => false,
        Some(Owned { is_exact: false, .. }) => true,
        Some(Owned { role: Role::Framing | Role::Routing, .. }) => false,
        Some(Owned { role: Role::Forbidden, .. }) => true,
        Some(Owned { role: Role::Forwarding, .. }) => !peer_is_trusted,
        Some(Owned { role: Role::Address, .. }) => {
            !peer_is_trusted || !headers.get_all(*name).iter().all(is_the_visitor)
        }
    };
    // Rarely any: an empty list takes no memory.
    let named: Vec<HeaderName> = headers.keys().filter(goes).cloned().collect();
    let is_claimed = !peer_is_trusted && named.contains(&FORWARDED_FOR);
    for name in named {
        headers.remove(name);
    }
    is_claimed
}

/// An address as a field's value.
pub(crate) fn address_value(ip: IpAddr) -> HeaderValue {
    // Digits, dots and colons are always one.
    HeaderValue::try_from(ip.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: impl Into<Bytes>) {
    if let Ok(value) = HeaderValue::from_maybe_shared(value.into()) {
        headers.insert(name, value);
    }
}

/// Who the visitor is: the address of the connection, or what the last proxy that is not trusted shows.
pub(crate) fn visitor_of(headers: &HeaderMap, peer: IpAddr, is_trusted: impl Fn(IpAddr) -> bool) -> IpAddr {
    if !is_trusted(peer) {
        return peer;
    }
    let lines = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
    // Recipients ignore empty elements of a list (RFC 9110, section 5.6.1.2).
    let elements = lines.flat_map(|line| line.split(|byte| *byte == b','));
    let said: Vec<&[u8]> = elements.filter(|element| !element.trim_ascii().is_empty()).collect();
    let mut visitor = peer;
    for text in said.iter().rev() {
        // A proxy that writes nonsense is believed up to there.
        let Some(ip) = address_in(text) else { break };
        visitor = ip;
        if !is_trusted(visitor) {
            break;
        }
    }
    visitor
}

/// The part of `X-Forwarded-For` that ends with the visitor: behind it are trusted proxies.
fn up_to(said: &[u8], visitor: IpAddr) -> &[u8] {
    let mut chain = said;
    while let Some(comma) = chain.iter().rposition(|byte| *byte == b',') {
        if address_in(&chain[comma + 1..]) == Some(visitor) {
            break;
        }
        chain = &chain[..comma];
    }
    chain.trim_ascii_end()
}

/// An address as proxies write it: bare, in brackets, or with a port (as RFC 7239, section 6 has it). What a visitor has
/// put beside it, be it no text at all, does not matter.
fn address_in(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(element).ok()?.trim();
    // IPv6 in quotes, as RFC 7239 writes it.
    let text = text.strip_prefix('"').and_then(|inside| inside.strip_suffix('"')).unwrap_or(text);
    let bare = text.strip_prefix('[').and_then(|inside| inside.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse().ok().or_else(|| text.parse().ok().map(|socket: SocketAddr| socket.ip()))?;
    Some(ip.to_canonical())
}

/// A request names more than one authority, or one that cannot be (RFC 9112, section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadAuthority;

/// The authority that a request names: a host, and maybe a port, and nothing else.
pub(crate) fn authority_of<B>(request: &Request<B>) -> Result<Option<Bytes>, BadAuthority> {
    let mut hosts = request.headers().get_all(HOST).iter();
    // An empty one names none: the target has no authority then (RFC 9110, section 7.2).
    let host = hosts.next().filter(|host| !host.is_empty()).map(HeaderValue::as_bytes);
    if hosts.next().is_some() || host.is_some_and(|host| !routing::is_authority(host)) {
        return Err(BadAuthority);
    }
    // The target's own authority counts, if it has one (RFC 9112, section 3.2.2).
    let Some(target) = request.uri().authority() else { return Ok(host.map(Bytes::copy_from_slice)) };
    // Who the visitor is does not belong in there (RFC 9110, section 4.2.4).
    let target = target.as_str().rsplit_once('@').map_or(target.as_str(), |(_, target)| target).as_bytes();
    // HTTP/2 has one way to say it; two that differ are malformed (RFC 9113, section 8.3.1).
    let differs = |host: &[u8]| request.version() == Version::HTTP_2 && !host.eq_ignore_ascii_case(target);
    if routing::is_authority(target) && !host.is_some_and(differs) {
        Ok(Some(Bytes::copy_from_slice(target)))
    } else {
        Err(BadAuthority)
    }
}

/// Makes one field of the cookies that HTTP/2 may cut into several, to be compressed better: HTTP/1.1 has one (RFC 9113,
/// section 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_some() {
        let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        let joined = crumbs.join(&b"; "[..]);
        put(headers, COOKIE, joined);
    }
}

/// Returns the host that a proxy in front was asked for, if it says so.
pub(crate) fn forwarded_host(headers: &HeaderMap) -> Option<Bytes> {
    let said = headers.get(FORWARDED_HOST)?.as_bytes();
    let first = said.split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
    routing::is_authority(first).then(|| Bytes::copy_from_slice(first))
}

/// Whether a proxy in front says that the visitor speaks HTTPS to it.
pub(crate) fn came_over_https(headers: &HeaderMap) -> bool {
    headers.get(FORWARDED_PROTO).is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"))
}

/// Adds an element of `Forwarded` (RFC 7239, section 4) behind those of earlier proxies.
fn add_forwarded(headers: &mut HeaderMap, node: IpAddr, scheme: Scheme, authority: Option<&Bytes>) {
    let node = match node {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("\"[{ip}]\""),
    };
    let mut element = format!("for={node};proto={}", scheme.as_str()).into_bytes();
    if let Some(authority) = authority {
        // A host and a port have neither quotes nor backslashes in them.
        element.extend([b";host=\"", &authority[..], b"\""].concat());
    }
    let mut elements: Vec<&[u8]> = headers.get_all(FORWARDED).iter().map(HeaderValue::as_bytes).collect();
    elements.push(&element);
    let elements = elements.join(&b", "[..]);
    put(headers, FORWARDED, elements);
}

/// Whether the visitor waits for a word before it sends its body (RFC 9110, section 10.1.1).
pub(crate) fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

#[cfg(test)]
mod tests;
