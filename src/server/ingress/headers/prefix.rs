//! What a path route takes off a request, its answer gets back.

use http::header::{LOCATION, SET_COOKIE};
use http::{HeaderMap, HeaderValue};

use super::put;
use crate::protocol::destination::path_of_ours;
use crate::values::Name;

/// How the names of cookies begin that belong to a host as a whole (RFC 6265bis, section 4.1.3.2).
const HOST_COOKIE: &[u8] = b"__Host-";

/// Gives `Location` and the paths of cookies the prefix back that a path route has taken from the request.
///
/// A `Location` with the visitor's own `authority` in it is one of ours too: nginx and others write it that way. A path
/// that has the prefix already is left alone: the application knows `X-Forwarded-Prefix`.
pub(crate) fn add_prefix(headers: &mut HeaderMap, name: &Name, authority: Option<&[u8]>) {
    let location = headers.get(LOCATION).map(HeaderValue::as_bytes);
    if let Some(location) = location.and_then(|location| prefixed_location(location, name, authority)) {
        put(headers, LOCATION, location);
    }
    let cookies: Vec<HeaderValue> = headers.get_all(SET_COOKIE).iter().map(|cookie| prefixed(cookie, name)).collect();
    headers.remove(SET_COOKIE);
    for cookie in cookies {
        headers.append(SET_COOKIE, cookie);
    }
}

/// Applications write more than ASCII here, whatever RFC 3986 says, and browsers take it.
fn prefixed_location(location: &[u8], name: &Name, authority: Option<&[u8]>) -> Option<Vec<u8>> {
    let (origin, path) = location.split_at(path_of_ours(location, authority)?);
    let is_path = path.starts_with(b"/") && !path.starts_with(b"//");
    (is_path && !has_prefix(path, name)).then(|| [origin, b"/", name.as_str().as_bytes(), path].concat())
}

/// Whether `path` is below the name already.
fn has_prefix(path: &[u8], name: &Name) -> bool {
    let rest = path.strip_prefix(b"/").and_then(|path| path.strip_prefix(name.as_str().as_bytes()));
    rest.is_some_and(|rest| rest.first().is_none_or(|next| b"/?#;".contains(next)))
}

/// `Path=/x` becomes `Path=/alice/x` (RFC 6265, section 4.1.2.4). A cookie without a path keeps none: a browser then
/// takes the path of the request, which has the prefix. A browser takes a `__Host-` cookie with `Path=/` only: it cannot
/// be kept to one name of a path route, and is left as it is.
fn prefixed(cookie: &HeaderValue, name: &Name) -> HeaderValue {
    let mut parts = cookie.as_bytes().split(|byte| *byte == b';');
    let pair = parts.next().unwrap_or_default();
    if pair.trim_ascii_start().get(..HOST_COOKIE.len()).is_some_and(|start| start.eq_ignore_ascii_case(HOST_COOKIE)) {
        return cookie.clone();
    }
    let mut text = pair.to_vec();
    for part in parts {
        text.push(b';');
        let equals = part.iter().position(|byte| *byte == b'=').unwrap_or(part.len());
        let (key, value) = part.split_at(equals);
        let path = value.get(1..).unwrap_or_default().trim_ascii();
        if key.trim_ascii().eq_ignore_ascii_case(b"path") && path.starts_with(b"/") && !has_prefix(path, name) {
            text.extend([key, b"=/", name.as_str().as_bytes(), path].concat());
        } else {
            text.extend_from_slice(part);
        }
    }
    HeaderValue::try_from(text).unwrap_or_else(|_| cookie.clone())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{headers, text};
    use super::*;

    #[test]
    fn answers_on_a_path_route_get_the_prefix_back() {
        let alice = Name::new("alice").unwrap();
        let mut fields = headers(&[
            ("location", "/login?next=/"),
            ("set-cookie", "a=1; Path=/; HttpOnly"),
            ("set-cookie", "b=2; path=/app"),
            ("set-cookie", "c=3"),
            ("set-cookie", "Path=/d; Path = /d"),
            ("set-cookie", "Path=/e"),
            ("set-cookie", "__Host-f=6; Path=/; Secure"),
        ]);
        add_prefix(&mut fields, &alice, Some(b"localhost:9090"));
        assert_eq!(text(&fields, "location"), ["/alice/login?next=/"]);
        assert_eq!(
            text(&fields, "set-cookie"),
            [
                "a=1; Path=/alice/; HttpOnly",
                "b=2; path=/alice/app",
                "c=3",
                "Path=/d; Path =/alice/d",
                "Path=/e",
                "__Host-f=6; Path=/; Secure",
            ]
        );
        for other in ["https://elsewhere.example/", "//elsewhere.example/", "relative"] {
            let mut fields = headers(&[]);
            fields.insert(LOCATION, HeaderValue::from_str(other).unwrap());
            add_prefix(&mut fields, &alice, Some(b"localhost:9090"));
            assert_eq!(text(&fields, "location"), [other]);
        }
    }

    #[test]
    fn a_location_at_the_visitors_own_authority_is_ours_and_a_prefix_comes_once() {
        let alice = Name::new("alice").unwrap();
        for (written, expected) in [
            ("http://localhost:9090/login", "http://localhost:9090/alice/login"),
            ("https://LOCALHOST:9090/", "https://LOCALHOST:9090/alice/"),
            ("http://localhost:9091/login", "http://localhost:9091/login"),
            ("http://localhost:9090", "http://localhost:9090"),
            ("/alice/login", "/alice/login"),
            ("/alice", "/alice"),
            ("/alicea", "/alice/alicea"),
            ("//localhost:9090/login", "//localhost:9090/alice/login"),
            ("//localhost/login", "//localhost/login"),
            ("HTTP://localhost:9090/", "HTTP://localhost:9090/alice/"),
            ("/café", "/alice/café"),
            ("mailto:a@b", "mailto:a@b"),
            ("?page=2", "?page=2"),
        ] {
            let mut fields = headers(&[]);
            fields.insert(LOCATION, HeaderValue::from_str(written).unwrap());
            add_prefix(&mut fields, &alice, Some(b"localhost:9090"));
            assert_eq!(fields[LOCATION].as_bytes(), expected.as_bytes());
        }
        let mut fields = headers(&[("set-cookie", "a=1; Path=/alice/app")]);
        add_prefix(&mut fields, &alice, None);
        assert_eq!(text(&fields, "set-cookie"), ["a=1; Path=/alice/app"]);
    }

    #[test]
    fn bytes_beyond_ascii_are_no_reason_to_leave_a_cookie_without_its_prefix() {
        let mut fields = headers(&[]);
        fields.insert(SET_COOKIE, HeaderValue::from_bytes(b"a=\xe9\xff;; Path=/; Secure").unwrap());
        add_prefix(&mut fields, &Name::new("alice").unwrap(), None);
        assert_eq!(fields[SET_COOKIE].as_bytes(), b"a=\xe9\xff;; Path=/alice/; Secure");
    }
}
