//! The `Destination` field of WebDAV (RFC 4918, section 10.3): where `COPY` and `MOVE` put a resource.
//!
//! It names a resource as the request target does, so it must lose the same prefix on the way to an application.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method};

/// The field.
pub const DESTINATION: HeaderName = HeaderName::from_static("destination");

/// The destination is invalid: it is ambiguous, has a fragment, or is not below the prefix of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadDestination;

/// Returns whether `method` may have a destination. Only WebDAV methods have one.
fn may_have_one(method: &Method) -> bool {
    !matches!(
        *method,
        Method::GET
            | Method::POST
            | Method::HEAD
            | Method::PUT
            | Method::OPTIONS
            | Method::DELETE
            | Method::PATCH
            | Method::CONNECT
            | Method::TRACE
    )
}

/// Returns the destination of a request, if it has one.
///
/// # Errors
/// There are two, or it has a fragment. An application that cuts the fragment off would write another resource.
pub fn destination_of<'h>(method: &Method, headers: &'h HeaderMap) -> Result<Option<&'h HeaderValue>, BadDestination> {
    if !may_have_one(method) {
        return Ok(None);
    }
    let mut lines = headers.get_all(DESTINATION).iter();
    let destination = lines.next();
    if lines.next().is_some() || destination.is_some_and(|value| value.as_bytes().contains(&b'#')) {
        return Err(BadDestination);
    }
    Ok(destination)
}

/// Removes `prefix` (`/alice`) from the destination, as from the target. A destination at another authority stays
/// unchanged.
///
/// # Errors
/// The destination is not below the prefix, so it belongs to another application.
pub fn strip_destination(
    method: &Method,
    headers: &mut HeaderMap,
    prefix: &str,
    authority: Option<&[u8]>,
) -> Result<(), BadDestination> {
    let Some(destination) = destination_of(method, headers)?.map(HeaderValue::as_bytes) else { return Ok(()) };
    let Some(begin) = path_of_ours(destination, authority) else { return Ok(()) };
    let (origin, path) = destination.split_at(begin);
    let (before, rest) = path.split_at_checked(prefix.len()).ok_or(BadDestination)?;
    if !before.eq_ignore_ascii_case(prefix.as_bytes()) {
        return Err(BadDestination);
    }
    let stripped = match rest.first() {
        None => [origin, b"/"].concat(),
        Some(b'?') => [origin, b"/", rest].concat(),
        Some(b'/') => [origin, rest].concat(),
        Some(_) => return Err(BadDestination),
    };
    let stripped = HeaderValue::try_from(stripped).map_err(|_| BadDestination)?;
    headers.insert(DESTINATION, stripped);
    Ok(())
}

/// Returns where the path of a URI reference begins; `None` if the reference names an authority other than `authority`. The default
/// port of the scheme may be written or left out in either (RFC 3986, section 6.2.3).
pub fn path_of_ours(reference: &[u8], authority: Option<&[u8]>) -> Option<usize> {
    // A reference without a scheme has the one of the page (RFC 3986, section 4.2).
    const STARTS: [(&[u8], &[u8]); 3] = [(b"http://", b":80"), (b"https://", b":443"), (b"//", b"")];
    let starts =
        |(start, _): &(&[u8], _)| reference.get(..start.len()).is_some_and(|is| is.eq_ignore_ascii_case(start));
    let Some((start, port)) = STARTS.into_iter().find(starts) else { return Some(0) };
    let rest = &reference[start.len()..];
    let host = rest.iter().position(|byte| b"/?#".contains(byte)).map_or(rest, |end| &rest[..end]);
    let without_port = |host| <[u8]>::strip_suffix(host, port).unwrap_or(host);
    let is_ours = |authority| without_port(authority).eq_ignore_ascii_case(without_port(host));
    authority.is_some_and(is_ours).then_some(start.len() + host.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(method: &str, lines: &[&'static str]) -> Result<Vec<String>, BadDestination> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(DESTINATION, HeaderValue::from_static(line));
        }
        let method = method.parse().unwrap();
        strip_destination(&method, &mut headers, "/alice", Some(b"a.example:80"))?;
        Ok(headers.get_all(DESTINATION).iter().map(|value| value.to_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn a_destination_loses_the_prefix_that_the_target_has_lost() {
        for (written, expected) in [
            ("http://a.example:80/alice/b?c", "http://a.example:80/b?c"),
            ("https://A.example:80/Alice", "https://A.example:80/"),
            ("http://a.example/alice/b", "http://a.example/b"),
            ("https://a.example/alice/b", "https://a.example/alice/b"),
            ("//a.example/alice/b", "//a.example/alice/b"),
            ("/alice/b", "/b"),
            ("/alice//b", "//b"),
            ("http://b.example/alice/b", "http://b.example/alice/b"),
        ] {
            assert_eq!(stripped("MOVE", &[written]), Ok(vec![expected.to_owned()]));
            assert_eq!(stripped("PUT", &[written]), Ok(vec![written.to_owned()]), "it has no meaning there");
        }
        assert_eq!(stripped("COPY", &[]), Ok(Vec::new()));
        for bad in ["/bob/b", "/", "", "/alicea/b", "http://a.example:80", "/alice/b#c", "#"] {
            assert_eq!(stripped("COPY", &[bad]), Err(BadDestination), "{bad}");
        }
        assert_eq!(stripped("COPY", &["/alice/a", "/alice/b"]), Err(BadDestination));
    }
}
