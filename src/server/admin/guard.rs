//! Who may come in.
//!
//! The API needs the token. The pages in [`OPEN`] are for programs on the same machine that have none: they are answered
//! without it if the connection is local, the request names this machine by an address or as `localhost`, and no proxy
//! says that it speaks for somebody else. A web page that has made its own name lead to 127.0.0.1 (DNS rebinding) asks
//! for that name, and gets nothing.

use std::net::{IpAddr, SocketAddr};

use http::header::{AUTHORIZATION, FORWARDED, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Request};

use super::Admin;
use super::answer::ApiError;
use super::change::audit_refusal;
use crate::auth::{AdminNonce, NONCE_FIELD};
use crate::routing;
use crate::server::metrics::Limit;

/// Pages that need no token from the same machine.
const OPEN: [&str; 5] = ["/healthz", "/readyz", "/ask", "/metrics", super::api::DESCRIPTION];

/// The page whose answer proves that the server knows the token.
const PROVING: &str = "/healthz";

/// What proxies add that speak for somebody else.
const SPEAKS_FOR: [HeaderName; 3] =
    [FORWARDED, HeaderName::from_static("x-forwarded-for"), HeaderName::from_static("x-real-ip")];

impl Admin {
    /// Lets a request in, or says why not. The right token is let in whatever others have tried from the same address: it
    /// has 256 bits, and looking at one costs next to nothing.
    pub(crate) fn admit<B>(&self, from: IpAddr, request: &Request<B>) -> Result<(), ApiError> {
        let is_open = OPEN.contains(&request.uri().path()) && is_local(from, request.headers());
        let Some(shown) = token_in(request.headers()) else {
            return if is_open { Ok(()) } else { Err(ApiError::token_needed()) };
        };
        if self.token.matches(shown) || is_open {
            return Ok(());
        }
        self.lifecycle.wrong_admin_tokens.allowed(from).map_err(|wait| {
            self.lifecycle.runtime.metrics.limited(Limit::AdminTokens);
            ApiError::too_many_failures(wait.seconds())
        })?;
        self.lifecycle.wrong_admin_tokens.failed(from);
        let refused = ApiError::bad_token();
        if !request.method().is_safe() {
            audit_refusal(from, request.method(), request.uri().path(), &refused);
        }
        Err(refused)
    }
}

impl Admin {
    /// Returns whether a request has the right token.
    pub(crate) fn shows_token<B>(&self, request: &Request<B>) -> bool {
        token_in(request.headers()).is_some_and(|shown| self.token.matches(shown))
    }

    /// The proof that this server knows the token, if a request for its health asks for one, whoever asks: the operator's
    /// tools want it before they show the token.
    pub(crate) fn proof<B>(&self, request: &Request<B>, arrived: SocketAddr) -> Option<HeaderValue> {
        let mut nonces = request.headers().get_all(NONCE_FIELD).iter();
        let nonce = nonces.next().filter(|_| nonces.next().is_none() && request.uri().path() == PROVING)?;
        let proof = AdminNonce::parse(nonce.as_bytes())?.proof(&self.token, arrived)?;
        HeaderValue::try_from(proof).ok()
    }
}

/// The token that a request shows (RFC 6750, section 2.1). Two of them are none.
fn token_in(headers: &HeaderMap) -> Option<&[u8]> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let value = all.next().filter(|_| all.next().is_none())?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

fn is_local(from: IpAddr, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().filter(|_| hosts.next().is_none()).and_then(|host| host.to_str().ok());
    let names_us = host.is_some_and(|authority| {
        let host = routing::host_of(authority);
        routing::is_authority(authority.as_bytes())
            && (host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok())
    });
    from.to_canonical().is_loopback() && names_us && !SPEAKS_FOR.iter().any(|name| headers.contains_key(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_token_comes_alone_behind_its_scheme() {
        for good in ["Bearer abc", "bearer abc", "BEARER  abc "] {
            assert_eq!(token_in(&headers(&[(AUTHORIZATION, good)])), Some(&b"abc"[..]), "{good}");
        }
        for bad in ["abc", "Basic abc", "Bearer", "Bearerabc", ""] {
            assert_eq!(token_in(&headers(&[(AUTHORIZATION, bad)])), None, "{bad}");
        }
        assert_eq!(token_in(&headers(&[(AUTHORIZATION, "Bearer a"), (AUTHORIZATION, "Bearer a")])), None);
        assert_eq!(token_in(&headers(&[])), None);
    }

    #[test]
    fn only_this_machine_asking_for_itself_is_local() {
        let home: IpAddr = [127, 0, 0, 1].into();
        for host in ["127.0.0.1:9091", "localhost", "LOCALHOST:1", "[::1]:9091", "192.0.2.1"] {
            assert!(is_local(home, &headers(&[(HOST, host)])), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:9091", "127.0.0.1.evil.example", "localhost:x", "", "::1"]
        {
            assert!(!is_local(home, &headers(&[(HOST, host)])), "{host}");
        }
        assert!(!is_local(home, &headers(&[])), "no host");
        assert!(!is_local(home, &headers(&[(HOST, "localhost"), (HOST, "evil.example")])), "two hosts");
        for (name, value) in [(SPEAKS_FOR[0].clone(), "for=192.0.2.1"), (SPEAKS_FOR[1].clone(), "192.0.2.1")] {
            assert!(!is_local(home, &headers(&[(HOST, "localhost"), (name.clone(), value)])), "{name}");
        }
        let local = headers(&[(HOST, "localhost")]);
        assert!(is_local("::1".parse().unwrap(), &local) && is_local("::ffff:127.0.0.1".parse().unwrap(), &local));
        assert!(!is_local("192.0.2.1".parse().unwrap(), &local));
    }
}
