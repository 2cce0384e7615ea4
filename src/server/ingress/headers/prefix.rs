//! What a path route takes off a request, its answer gets back.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_LOCATION, HeaderName, LINK, LOCATION, REFRESH, SET_COOKIE};

use crate::protocol::destination::path_of_ours;
use crate::protocol::references::{map_bracketed, map_field, map_fields, map_refresh};
use crate::values::Name;

/// How the names of cookies begin that belong to a host as a whole (RFC 6265bis, section 4.1.3.2).
const HOST_COOKIE: &[u8] = b"__Host-";

/// Adds the prefix that a path route has removed from the request to every field of the response with a path in it, and to
/// the paths of cookies.
///
/// A URI with one of the visitor's own `authorities` in it is one of ours too: nginx and others write it that way. Each path
/// is one of the application's: a path that begins like the prefix gets it, too.
pub(crate) fn add_prefix(headers: &mut HeaderMap, name: &Name, authorities: [&Option<Bytes>; 2]) {
    let add = |reference: &[u8]| authorities.iter().find_map(|ours| prefixed_path(reference, name, ours.as_deref()));
    // Most responses have none of them: looking at the names that are there costs less than looking for each.
    let has_paths = |name: &HeaderName| matches!(*name, LOCATION | CONTENT_LOCATION | REFRESH | LINK | SET_COOKIE);
    if !headers.keys().any(has_paths) {
        return;
    }
    for field in [LOCATION, CONTENT_LOCATION] {
        map_field(headers, &field, add);
    }
    map_field(headers, &REFRESH, |value| map_refresh(value, add));
    map_fields(headers, &LINK, |value| map_bracketed(value, add));
    map_fields(headers, &SET_COOKIE, |cookie| prefixed_cookie(cookie, name));
}

/// Applications write more than ASCII here, whatever RFC 3986 says, and browsers take it.
fn prefixed_path(reference: &[u8], name: &Name, authority: Option<&[u8]>) -> Option<Vec<u8>> {
    let (origin, path) = reference.split_at(path_of_ours(reference, authority)?);
    let is_path = path.starts_with(b"/") && !path.starts_with(b"//");
    // A bare origin is the root of the application.
    let is_root = !origin.is_empty() && path.first().is_none_or(|first| b"?#".contains(first));
    let slash = if is_root { &b"/"[..] } else { b"" };
    (is_path || is_root).then(|| [origin, b"/", name.as_str().as_bytes(), slash, path].concat())
}

/// `Path=/x` becomes `Path=/alice/x` (RFC 6265, section 4.1.2.4). A cookie without a path keeps none: a browser then
/// takes the path of the request, which has the prefix. A browser takes a `__Host-` cookie with `Path=/` only: it cannot
/// be kept to one name of a path route, and is left as it is.
fn prefixed_cookie(cookie: &[u8], name: &Name) -> Option<Vec<u8>> {
    let mut parts = cookie.split(|byte| *byte == b';');
    let pair = parts.next().unwrap_or_default();
    if pair.trim_ascii_start().get(..HOST_COOKIE.len()).is_some_and(|start| start.eq_ignore_ascii_case(HOST_COOKIE)) {
        return None;
    }
    let mut text = pair.to_vec();
    for part in parts {
        text.push(b';');
        let equals = part.iter().position(|byte| *byte == b'=').unwrap_or(part.len());
        let (key, value) = part.split_at(equals);
        let path = value.get(1..).unwrap_or_default().trim_ascii();
        if key.trim_ascii().eq_ignore_ascii_case(b"path") && path.starts_with(b"/") {
            text.extend([key, b"=/", name.as_str().as_bytes(), path].concat());
        } else {
            text.extend_from_slice(part);
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::super::tests::{headers, text};
    use super::*;

    /// Adds `/alice` on a route whose visitor has asked for `localhost:9090`.
    fn add(fields: &mut HeaderMap) {
        add_prefix(fields, &Name::new("alice").unwrap(), [&Some(Bytes::from_static(b"localhost:9090")), &None]);
    }

    #[test]
    fn answers_on_a_path_route_get_the_prefix_back() {
        let mut fields = headers(&[
            ("location", "/login?next=/"),
            ("set-cookie", "a=1; Path=/; HttpOnly"),
            ("set-cookie", "b=2; path=/app"),
            ("set-cookie", "c=3"),
            ("set-cookie", "Path=/d; Path = /d"),
            ("set-cookie", "Path=/e"),
            ("set-cookie", "__Host-f=6; Path=/; Secure"),
        ]);
        add(&mut fields);
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
            add(&mut fields);
            assert_eq!(text(&fields, "location"), [other]);
        }
    }

    #[test]
    fn a_location_at_the_visitors_own_authority_is_ours_and_no_path_is_taken_for_a_prefix() {
        for (written, expected) in [
            ("http://localhost:9090/login", "http://localhost:9090/alice/login"),
            ("https://LOCALHOST:9090/", "https://LOCALHOST:9090/alice/"),
            ("http://localhost:9091/login", "http://localhost:9091/login"),
            ("http://localhost:9090", "http://localhost:9090/alice/"),
            ("http://localhost:9090?a", "http://localhost:9090/alice/?a"),
            ("/alice/login", "/alice/alice/login"),
            ("/alice", "/alice/alice"),
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
            add(&mut fields);
            assert_eq!(fields[LOCATION].as_bytes(), expected.as_bytes());
        }
        let mut fields = headers(&[("set-cookie", "a=1; Path=/alice/app")]);
        add(&mut fields);
        assert_eq!(text(&fields, "set-cookie"), ["a=1; Path=/alice/alice/app"]);
    }

    #[test]
    fn every_field_with_a_path_gets_the_prefix() {
        let mut fields = headers(&[
            ("content-location", "/a"),
            ("refresh", "5; url=/a"),
            ("link", "</?page=2>; rel=next, <http://localhost:9090/?page=1>; rel=prev, <b>; rel=up"),
            ("link", "<https://other.example/>; rel=help"),
        ]);
        add(&mut fields);
        assert_eq!(
            (text(&fields, "content-location"), text(&fields, "refresh")),
            (vec!["/alice/a".to_owned()], vec!["5; url=/alice/a".to_owned()])
        );
        assert_eq!(
            text(&fields, "link"),
            [
                "</alice/?page=2>; rel=next, <http://localhost:9090/alice/?page=1>; rel=prev, <b>; rel=up",
                "<https://other.example/>; rel=help",
            ]
        );
        // A proxy in front was asked for another host.
        let mut fields = headers(&[("location", "https://public.example/a")]);
        let hosts = ["inner", "public.example"].map(|host| Some(Bytes::from_static(host.as_bytes())));
        add_prefix(&mut fields, &Name::new("alice").unwrap(), [&hosts[0], &hosts[1]]);
        assert_eq!(text(&fields, "location"), ["https://public.example/alice/a"]);
    }

    #[test]
    fn bytes_beyond_ascii_are_no_reason_to_leave_a_cookie_without_its_prefix() {
        let mut fields = headers(&[]);
        fields.insert(SET_COOKIE, HeaderValue::from_bytes(b"a=\xe9\xff;; Path=/; Secure").unwrap());
        add(&mut fields);
        assert_eq!(fields[SET_COOKIE].as_bytes(), b"a=\xe9\xff;; Path=/alice/; Secure");
    }
}
