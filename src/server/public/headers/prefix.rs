//! What a path route takes off a request, its answer gets back.

use http::header::{LOCATION, SET_COOKIE};
use http::{HeaderMap, HeaderValue};

use super::put;
use crate::values::Name;

/// How the names of cookies begin that belong to a host as a whole (RFC 6265bis, section 4.1.3.2).
const HOST_COOKIE: &str = "__Host-";

/// Gives `Location` and the paths of cookies the prefix back that a path route has taken from the request.
///
/// A `Location` with the visitor's own `authority` in it is one of ours too: nginx and others write it that way. A path
/// that has the prefix already is left alone: the application knows `X-Forwarded-Prefix`.
pub(in crate::server::public) fn add_prefix(headers: &mut HeaderMap, name: &Name, authority: Option<&[u8]>) {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    if let Some(location) = location.and_then(|location| prefixed_location(location, name, authority)) {
        put(headers, LOCATION, location);
    }
    let cookies: Vec<HeaderValue> = headers.get_all(SET_COOKIE).iter().map(|cookie| prefixed(cookie, name)).collect();
    headers.remove(SET_COOKIE);
    for cookie in cookies {
        headers.append(SET_COOKIE, cookie);
    }
}

fn prefixed_location(location: &str, name: &Name, authority: Option<&[u8]>) -> Option<String> {
    let path_at = match location.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => {
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let is_ours = authority.is_some_and(|authority| host.as_bytes().eq_ignore_ascii_case(authority));
            is_ours.then_some(scheme.len() + "://".len() + host.len())?
        }
        _ => 0,
    };
    let (origin, path) = location.split_at(path_at);
    let is_path = path.starts_with('/') && !path.starts_with("//");
    (is_path && !has_prefix(path, name)).then(|| format!("{origin}/{name}{path}"))
}

/// Whether `path` is below the name already.
fn has_prefix(path: &str, name: &Name) -> bool {
    let rest = path.strip_prefix('/').and_then(|path| path.strip_prefix(name.as_str()));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#', ';']))
}

/// `Path=/x` becomes `Path=/alice/x` (RFC 6265, section 4.1.2.4). A cookie without a path keeps none: a browser then
/// takes the path of the request, which has the prefix. A browser takes a `__Host-` cookie with `Path=/` only: it cannot
/// be kept to one name of a path route, and is left as it is.
fn prefixed(cookie: &HeaderValue, name: &Name) -> HeaderValue {
    let Ok(text) = cookie.to_str() else { return cookie.clone() };
    let Some((pair, attributes)) = text.split_once(';') else { return cookie.clone() };
    if pair.trim_start().get(..HOST_COOKIE.len()).is_some_and(|start| start.eq_ignore_ascii_case(HOST_COOKIE)) {
        return cookie.clone();
    }
    let attributes = attributes.split(';').map(|part| match part.split_once('=') {
        Some((key, path))
            if key.trim().eq_ignore_ascii_case("path")
                && path.trim_start().starts_with('/')
                && !has_prefix(path.trim(), name) =>
        {
            format!("{key}=/{name}{}", path.trim_start())
        }
        _ => part.to_owned(),
    });
    let attributes = attributes.collect::<Vec<_>>().join(";");
    HeaderValue::try_from(format!("{pair};{attributes}")).unwrap_or_else(|_| cookie.clone())
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
        ] {
            let mut fields = headers(&[]);
            fields.insert(LOCATION, HeaderValue::from_str(written).unwrap());
            add_prefix(&mut fields, &alice, Some(b"localhost:9090"));
            assert_eq!(text(&fields, "location"), [expected]);
        }
        let mut fields = headers(&[("set-cookie", "a=1; Path=/alice/app")]);
        add_prefix(&mut fields, &alice, None);
        assert_eq!(text(&fields, "set-cookie"), ["a=1; Path=/alice/app"]);
    }
}
