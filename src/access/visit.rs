//! A request as a browser describes it: which page has caused it.

use http::header::{AUTHORIZATION, HeaderName, ORIGIN, REFERER};
use http::{HeaderMap, HeaderValue, Method};

use super::login_cookie::own_authorization;
use crate::protocol::exchange::Scheme;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// The parts of a request that tell whether the visitor's own page has caused it.
#[derive(Debug, Clone, Copy)]
pub struct Visit<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its fields.
    pub headers: &'a HeaderMap,
    /// The scheme that the visitor uses.
    pub scheme: Scheme,
    /// The host that it asks for, perhaps with a port.
    pub authority: Option<&'a [u8]>,
    /// Whether the service has an origin of its own: a host, not a path or a header on the common host.
    pub has_own_origin: bool,
}

impl Visit<'_> {
    /// Returns whether a request may use a login that the browser adds by itself: it comes from a page of the same origin, or
    /// it is a top-level `GET` navigation. Pages of sibling tenants are of the same site, so `SameSite` does not keep
    /// them out.
    ///
    /// `Sec-Fetch-Site` decides. Browsers that do not send it (old ones, and all over plain HTTP) prove their origin by
    /// `Origin`, by `Referer`, or by an `Authorization` that only a script of the same origin can add without `Origin`.
    pub(super) fn may_use_a_login(&self) -> bool {
        if !self.headers.contains_key(FETCH_SITE) {
            return self.is_of_own_origin();
        }
        match self.only(&FETCH_SITE) {
            Some(b"same-origin") => true,
            Some(b"none" | b"same-site" | b"cross-site") => {
                *self.method == Method::GET
                    && self.only(&FETCH_MODE) == Some(b"navigate")
                    && self.only(&FETCH_DEST) == Some(b"document")
            }
            _ => false,
        }
    }

    fn is_of_own_origin(&self) -> bool {
        if self.headers.contains_key(ORIGIN) {
            return self.only(&ORIGIN).is_some_and(|origin| self.is_own(origin));
        }
        if self.headers.contains_key(AUTHORIZATION) {
            // Browsers add these by themselves, also to requests of other pages.
            let automatic = [&b"digest"[..], b"negotiate", b"ntlm"];
            let scheme = own_authorization(self.headers);
            return scheme.is_some_and(|scheme| !automatic.iter().any(|known| scheme.eq_ignore_ascii_case(known)));
        }
        let origin_of = |page: &[u8]| {
            let host = page.windows(3).position(|bytes| bytes == b"://")? + 3;
            let end = page[host..].iter().position(|byte| b"/?#".contains(byte)).map_or(page.len(), |at| host + at);
            Some(self.is_own(&page[..end]))
        };
        self.only(&REFERER).and_then(origin_of).unwrap_or(false)
    }

    /// Returns whether `origin` (`https://host:port`) is the origin of the request.
    fn is_own(&self, origin: &[u8]) -> bool {
        let Some(authority) = self.authority else { return false };
        let (scheme, default_port): (&[u8], &[u8]) = match self.scheme {
            Scheme::Https => (b"https://", b":443"),
            Scheme::Http => (b"http://", b":80"),
        };
        let bare = |authority: &'_ [u8]| authority.strip_suffix(default_port).unwrap_or(authority).to_ascii_lowercase();
        let (Some(asked), Some(host)) = (origin.get(..scheme.len()), origin.get(scheme.len()..)) else { return false };
        asked.eq_ignore_ascii_case(scheme) && !host.is_empty() && bare(host) == bare(authority)
    }

    /// Returns the value of a field that occurs once.
    fn only(&self, name: &HeaderName) -> Option<&[u8]> {
        let mut values = self.headers.get_all(name).iter();
        let (value, None) = (values.next()?, values.next()) else { return None };
        Some(HeaderValue::as_bytes(value))
    }
}
