//! Maps the addresses in header fields between the visitor's side and the application's.
//!
//! A visitor knows an application by its public origin, the application knows itself by its local address or by what its
//! `Host` says. Requests that name the public host in `Origin`, `Referer` or `Destination` are mapped if the application is
//! told another `Host`; responses that name the application's own address lead to the public origin, as nginx's
//! `proxy_redirect default` does it.

use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_LOCATION, FORWARDED, HeaderName, LINK, LOCATION, ORIGIN, REFERER, REFRESH,
    SET_COOKIE,
};
use http::{HeaderMap, HeaderValue, Method};

use crate::agent::options::{HostHeader, LocalScheme, LocalUrl, Place, Service};
use crate::protocol::destination::{DESTINATION, destination_of};
use crate::protocol::exchange::{RequestHead, Scheme};
use crate::protocol::references::{self, Reference, map_field, map_fields, split_port};

const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The field with the conditions of a WebDAV request (RFC 4918, section 10.4).
const IF: HeaderName = HeaderName::from_static("if");

/// The origin that a visitor has asked, as its browser sees it.
#[derive(Debug)]
pub(in crate::agent) struct PublicOrigin {
    scheme: Scheme,
    /// The host, and the port if it was written.
    authority: Box<[u8]>,
}

impl PublicOrigin {
    /// Returns the origin of a request, if it names one. A proxy in front of the server may have told another one than that
    /// of its own request.
    fn of(head: &RequestHead) -> Option<Self> {
        let host = head.headers.get(FORWARDED_HOST).map(HeaderValue::as_bytes);
        let first = host.and_then(|host| host.split(|byte| *byte == b',').next()).map(<[u8]>::trim_ascii);
        let authority = first.filter(|host| !host.is_empty()).or(head.authority.as_deref())?;
        let is_tls = head.scheme == Scheme::Https
            || head.headers.get(FORWARDED_PROTO).is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"));
        Some(Self { scheme: if is_tls { Scheme::Https } else { Scheme::Http }, authority: authority.into() })
    }

    fn host(&self) -> &[u8] {
        split_port(&self.authority).0
    }

    fn port(&self) -> u16 {
        split_port(&self.authority).1.unwrap_or(default_port(self.scheme))
    }

    /// Whether a URI names this origin. Without a scheme it has the one of the page.
    fn is_named_by(&self, reference: &Reference<'_>) -> bool {
        let (host, port) = split_port(reference.authority);
        let scheme = reference.scheme.unwrap_or(self.scheme);
        let own_port = split_port(&self.authority).1;
        host.eq_ignore_ascii_case(self.host())
            && port.unwrap_or(default_port(scheme)) == own_port.unwrap_or(default_port(scheme))
    }

    /// Returns the reference with this origin in the place of its own.
    fn put_into(&self, reference: &Reference<'_>) -> Vec<u8> {
        references::with_origin(reference.scheme.map(|_| self.scheme), &self.authority, reference.rest)
    }
}

fn default_port(scheme: Scheme) -> u16 {
    match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    }
}

/// Maps the fields of one application's requests and responses.
#[derive(Debug)]
pub(in crate::agent) struct AddressMap {
    /// The scheme of the connection to the application.
    scheme: Scheme,
    /// The application's address, as its `Host` has it.
    authority: Box<str>,
    /// The port that it listens on, if it listens on one.
    port: Option<u16>,
    is_loopback: bool,
    /// Which `Host` it is told.
    told: HostHeader,
    name: Box<str>,
    domains: Box<[Box<str>]>,
}

impl AddressMap {
    /// Creates the map of the application at `url`, which serves `service`.
    pub(in crate::agent) fn new(service: &Service, url: &LocalUrl) -> Self {
        let (is_loopback, port) = match &url.place {
            Place::Tcp { host, port } => (is_loopback(host.as_bytes()), Some(*port)),
            Place::Unix(_) | Place::InProcess => (true, None),
        };
        Self {
            scheme: if url.scheme() == LocalScheme::Https { Scheme::Https } else { Scheme::Http },
            authority: url.authority().into(),
            port,
            is_loopback,
            told: service.host_header.clone(),
            name: service.name.as_str().into(),
            domains: service.domains.iter().map(|domain| domain.host().into()).collect(),
        }
    }

    /// Maps a request's fields to the application's side. Returns what the response needs to be mapped back.
    pub(in crate::agent) fn request(&self, head: &mut RequestHead) -> Option<PublicOrigin> {
        let public = PublicOrigin::of(head);
        if self.told == HostHeader::Local {
            head.headers.remove(FORWARDED_HOST);
            remove_forwarded_host(&mut head.headers);
            if let Some(public) = &public {
                for name in [ORIGIN, REFERER] {
                    // The scheme stays what `X-Forwarded-Proto` says.
                    map_field(&mut head.headers, &name, |value| self.local(value, public));
                }
            }
        }
        if let Some(public) = &public
            && !matches!(head.method, Method::GET | Method::HEAD)
        {
            let to_local = |value: &[u8]| self.local_resource(value, public);
            if let Ok(Some(_)) = destination_of(&head.method, &head.headers) {
                map_field(&mut head.headers, &DESTINATION, to_local);
            }
            map_fields(&mut head.headers, &IF, |value| references::map_bracketed(value, to_local));
        }
        public
    }

    /// Returns a URI of the visitor's with the address that the application is told in the place of the public one.
    fn local(&self, value: &[u8], public: &PublicOrigin) -> Option<Vec<u8>> {
        let reference = Reference::read(value).filter(|reference| public.is_named_by(reference))?;
        let authority = match &self.told {
            HostHeader::Preserve => reference.authority,
            HostHeader::Local => self.authority.as_bytes(),
            HostHeader::Value(value) => value.as_bytes(),
        };
        Some(references::with_origin(Some(reference.scheme?), authority, reference.rest))
    }

    /// As [`Self::local`], for the URI of a resource that a WebDAV request names beside its target.
    ///
    /// Some applications compare its scheme with that of their connection, others with `X-Forwarded-Proto`. Where these
    /// differ, the path alone suits both (RFC 4918, section 8.3).
    fn local_resource(&self, value: &[u8], public: &PublicOrigin) -> Option<Vec<u8>> {
        let local = self.local(value, public)?;
        if self.scheme == public.scheme {
            return Some(local);
        }
        let Reference { rest, .. } = Reference::read(&local)?;
        match rest.first() {
            // With two slashes it would name an authority.
            Some(b'/') if !rest.starts_with(b"//") => Some(rest.to_vec()),
            None | Some(b'?') => Some([b"/", rest].concat()),
            Some(_) => Some(local),
        }
    }

    /// Maps a response's fields to the visitor's side.
    pub(in crate::agent) fn response(&self, headers: &mut HeaderMap, public: &PublicOrigin) {
        // Most responses have none of them: looking at the names that are there costs less than looking for each.
        let is_mapped = |name: &HeaderName| {
            matches!(*name, LOCATION | CONTENT_LOCATION | REFRESH | LINK | SET_COOKIE | ACCESS_CONTROL_ALLOW_ORIGIN)
        };
        if !headers.keys().any(is_mapped) {
            return;
        }
        let to_public = |value: &[u8]| self.public(value, public);
        for name in [LOCATION, CONTENT_LOCATION] {
            map_field(headers, &name, to_public);
        }
        if self.told == HostHeader::Local {
            // It repeats the `Origin` that it was told.
            map_field(headers, &ACCESS_CONTROL_ALLOW_ORIGIN, to_public);
        }
        map_field(headers, &REFRESH, |value| references::map_refresh(value, to_public));
        map_fields(headers, &LINK, |value| references::map_bracketed(value, to_public));
        map_fields(headers, &SET_COOKIE, |value| self.public_cookie(value, public));
    }

    /// Returns a URI of the application's with the public origin in the place of its own address; `None` if it does not name
    /// that, or the public origin already.
    fn public(&self, value: &[u8], public: &PublicOrigin) -> Option<Vec<u8>> {
        let reference = Reference::read(value)?;
        let (host, port) = split_port(reference.authority);
        let names = self.is_local(&reference) || self.is_told(host, port) || {
            host.eq_ignore_ascii_case(public.host()) && self.is_own_side(reference.scheme, port, public)
        };
        names.then(|| public.put_into(&reference)).filter(|mapped| mapped != value)
    }

    /// Whether a URI names the address that the application listens on.
    fn is_local(&self, reference: &Reference<'_>) -> bool {
        let (host, port) = split_port(reference.authority);
        let (own_host, own_port) = split_port(self.authority.as_bytes());
        let is_host = host.eq_ignore_ascii_case(own_host) || (self.is_loopback && is_loopback(host));
        is_host && (port == own_port || (port.is_some() && port == self.port))
    }

    /// Whether an authority is the `Host` that the configuration tells the application.
    fn is_told(&self, host: &[u8], port: Option<u16>) -> bool {
        let HostHeader::Value(told) = &self.told else { return false };
        let (told_host, told_port) = split_port(told.as_bytes());
        host.eq_ignore_ascii_case(told_host) && (port == told_port || port.is_none() || port == self.port)
    }

    /// Whether a URI at the public host has the port or the scheme of the application, and not those of the public origin.
    /// From HTTP to HTTPS without a port is no mistake: many applications insist on HTTPS.
    fn is_own_side(&self, scheme: Option<Scheme>, port: Option<u16>, public: &PublicOrigin) -> bool {
        let written = scheme.unwrap_or(public.scheme);
        let effective = port.unwrap_or(default_port(written));
        if written == public.scheme && effective == public.port() {
            return false;
        }
        let is_default = effective == default_port(written);
        let has_own_port = Some(effective) == self.port && (!is_default || written == Scheme::Http);
        let lacks_tls =
            written == Scheme::Http && public.scheme == Scheme::Https && (is_default || effective == public.port());
        has_own_port || lacks_tls
    }

    /// Returns a cookie whose `Domain` is the application's own host with the public one. Where the public host is not the
    /// service's alone, the cookie stays on that host, without a `Domain`.
    fn public_cookie(&self, cookie: &[u8], public: &PublicOrigin) -> Option<Vec<u8>> {
        let mut parts = cookie.split(|byte| *byte == b';');
        let mut text = parts.next().unwrap_or_default().to_vec();
        let mut is_changed = false;
        for part in parts {
            let equals = part.iter().position(|byte| *byte == b'=').unwrap_or(part.len());
            let (key, value) = part.split_at(equals);
            let domain = value.get(1..).unwrap_or_default().trim_ascii();
            let domain = domain.strip_prefix(b".").unwrap_or(domain);
            if key.trim_ascii().eq_ignore_ascii_case(b"domain") && self.is_own_host(domain) {
                is_changed = true;
                if self.has_for_itself(public.host()) {
                    text.extend([b";", key, b"=", public.host()].concat());
                }
            } else {
                text.push(b';');
                text.extend_from_slice(part);
            }
        }
        is_changed.then_some(text)
    }

    fn is_own_host(&self, host: &[u8]) -> bool {
        let is_local = || {
            host.eq_ignore_ascii_case(split_port(self.authority.as_bytes()).0)
                || (self.is_loopback && is_loopback(host))
        };
        !host.is_empty() && (is_local() || self.is_told(host, None))
    }

    /// Whether a public host belongs to the service and not to all clients.
    fn has_for_itself(&self, host: &[u8]) -> bool {
        let label = host.split(|byte| *byte == b'.').next().unwrap_or_default();
        // A host below a domain leads here only if the domain has a wildcard.
        let is_of = |domain: &[u8]| {
            host.len()
                .checked_sub(domain.len())
                .is_some_and(|at| host[at..].eq_ignore_ascii_case(domain) && (at == 0 || host[at - 1] == b'.'))
        };
        label.eq_ignore_ascii_case(self.name.as_bytes()) || self.domains.iter().any(|domain| is_of(domain.as_bytes()))
    }
}

/// Whether a host, with or without brackets, leads to the machine that names it. Some applications call themselves by the
/// address that they listen on.
fn is_loopback(host: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(host) else { return false };
    let bare = text.strip_prefix('[').and_then(|inside| inside.strip_suffix(']')).unwrap_or(text);
    text.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback() || ip.is_unspecified())
}

/// Removes the public host from `Forwarded` (RFC 7239, section 5.3).
fn remove_forwarded_host(headers: &mut HeaderMap) {
    let is_host = |pair: &&[u8]| {
        let key = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
        key.trim_ascii().eq_ignore_ascii_case(b"host")
    };
    map_fields(headers, &FORWARDED, |value| {
        // The server writes neither semicolons nor commas into quoted hosts.
        let element = |element: &[u8]| {
            let pairs: Vec<&[u8]> = element.split(|byte| *byte == b';').filter(|pair| !is_host(pair)).collect();
            pairs.join(&b';')
        };
        Some(value.split(|byte| *byte == b',').map(element).collect::<Vec<_>>().join(&b','))
    });
}

#[cfg(test)]
mod tests;
