//! Request targets as clients send them, for an HTTP library that accepts fewer.
//!
//! - **Fragments.** A fragment is not part of a request target (RFC 9112, section 3.2; RFC 9113, section 8.3.1). `http::Uri`
//!   cuts it off, so that `DELETE /keep/#x` would delete `/keep/`. A request with a `#` in its target is answered with 400.
//! - **Other characters.** `http::Uri` refuses characters that clients send and that other servers accept, like `"` in a
//!   query ([`encode`]). They are percent-encoded, which means the same.
//!
//! hyper shows the target only after it has parsed it, so these readers look at the bytes on their way to hyper:
//! [`Http1Targets`] at request lines, [`Http2Targets`] at `:path`. The latter also tells on which stream an `Expect` came. All
//! other bytes cross unchanged.
//!
//! A reader that cannot follow a connection any more, or that hyper may not agree with, refuses every later request of that
//! connection. Clients that keep to the standards never come to that.

mod encode;
mod hpack;
mod http1;
mod http2;
mod huffman;

pub(crate) use http1::Http1Targets;
pub(crate) use http2::Http2Targets;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};

/// The requests of an HTTP/1.1 connection. Those from the first one on that has a fragment in its target are refused, because
/// the connection ends with its answer.
#[derive(Debug, Clone)]
pub(crate) struct Requests(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    /// The number of the first request that is refused. The first one of the connection has the number 0.
    first_bad: AtomicU64,
    /// How many requests the HTTP library has read.
    read: AtomicU64,
}

impl Requests {
    fn new() -> Self {
        Self(Arc::new(Counts { first_bad: AtomicU64::new(u64::MAX), read: AtomicU64::new(0) }))
    }

    fn refuse_from(&self, number: u64) {
        self.0.first_bad.fetch_min(number, Ordering::AcqRel);
    }

    /// Counts the next request that the HTTP library has read. Returns whether it is refused.
    pub(crate) fn next_is_refused(&self) -> bool {
        self.0.read.fetch_add(1, Ordering::AcqRel) >= self.0.first_bad.load(Ordering::Acquire)
    }

    fn read(&self) -> u64 {
        self.0.read.load(Ordering::Acquire)
    }
}

/// The field that [`Http2Targets`] adds to a request that is refused for its target.
const MARK: HeaderName = HeaderName::from_static("x-adit-bad-target");

/// The field in which [`Http2Targets`] passes on a target that hyper would not accept as it is. A visitor that sends it sets
/// its own target, as it can with `:path`.
const TARGET: HeaderName = HeaderName::from_static("x-adit-target");

/// The field in which [`Http2Targets`] tells the number of a request's stream, if the visitor waits to be asked for its body.
const STREAM: HeaderName = HeaderName::from_static("x-adit-stream");

/// What [`Http2Targets`] says about the requests of an HTTP/2 connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Marks(Arc<AtomicU8>);

/// hyper shows all there is to know.
const NONE: u8 = 0;
/// Some requests have a field of the reader's.
const MARKED: u8 = 1;
/// The targets cannot be read any more.
const ALL: u8 = 2;

/// What is to be known of an HTTP/2 request beside what hyper shows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Marked {
    /// It is refused for its target.
    pub(crate) is_bad_target: bool,
    /// Its stream, if the visitor may wait to be asked for the body.
    pub(crate) stream: Option<u32>,
}

impl Marks {
    fn begin(&self) {
        self.0.fetch_max(MARKED, Ordering::AcqRel);
    }

    fn refuse_all(&self) {
        self.0.store(ALL, Ordering::Release);
    }

    /// Gives a request the target that the visitor sent.
    pub(crate) fn apply<B>(&self, request: &mut Request<B>) -> Marked {
        match self.0.load(Ordering::Acquire) {
            NONE => Marked::default(),
            MARKED => {
                let stream = own_field(request, &STREAM).and_then(|stream| stream.to_str().ok()?.parse().ok());
                let is_bad = request.headers_mut().remove(MARK).is_some();
                Marked { is_bad_target: !restore_target(request) || is_bad, stream }
            }
            _ => Marked { is_bad_target: true, stream: None },
        }
    }
}

/// Removes a field of the reader's. It is behind one that a visitor may have sent.
fn own_field<B>(request: &mut Request<B>, name: &HeaderName) -> Option<HeaderValue> {
    let value = request.headers().get_all(name).iter().next_back().cloned();
    if value.is_some() {
        request.headers_mut().remove(name);
    }
    value
}

/// Moves the target in [`TARGET`] to where it belongs. Returns whether that is a target.
fn restore_target<B>(request: &mut Request<B>) -> bool {
    let Some(target) = own_field(request, &TARGET) else { return true };
    let Ok(target) = PathAndQuery::try_from(target.as_bytes()) else { return false };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.path_and_query = Some(target);
    Uri::from_parts(parts).map(|uri| *request.uri_mut() = uri).is_ok()
}

/// Whether hyper has read the target of a request in a form that it must not have (RFC 9112, section 3.2; RFC 9113, section
/// 8.3.1): an authority alone, `*` for a method other than `OPTIONS`, a path without `/`, another scheme than those of HTTP.
pub(crate) fn is_malformed(method: &Method, uri: &Uri, version: Version) -> bool {
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    match target.as_bytes() {
        [b'/', ..] => {}
        b"*" if *method == Method::OPTIONS => return false,
        // Only `http://host?query` is written so, and means `/?query`.
        [b'?', ..] if version != Version::HTTP_2 && uri.scheme().is_some() => {}
        _ => return true,
    }
    // Over HTTP/2 the scheme is what a proxy in front has seen (RFC 9113, section 8.3.1).
    version != Version::HTTP_2 && uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https"))
}

#[cfg(test)]
mod libraries;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_one_of_the_forms_of_its_version_and_method() {
        let is_bad = |method: &str, target: &str, version| {
            is_malformed(&method.parse().unwrap(), &target.parse().unwrap(), version)
        };
        for target in ["/", "/a?b", "//a", "http://a.example", "http://a.example?b", "HTTPS://a.example/b"] {
            assert!(!is_bad("GET", target, Version::HTTP_11), "{target}");
        }
        assert!(!is_bad("OPTIONS", "*", Version::HTTP_11) && !is_bad("OPTIONS", "*", Version::HTTP_2));
        for target in ["*", "a.example", "a.example:80", "ftp://a.example/b"] {
            assert!(is_bad("GET", target, Version::HTTP_11), "{target}");
        }
        let mut parts = http::uri::Parts::default();
        parts.path_and_query = Some("?b".parse().unwrap());
        let bare = Uri::from_parts(parts).unwrap();
        assert!(
            is_malformed(&Method::GET, &bare, Version::HTTP_2) && is_malformed(&Method::GET, &bare, Version::HTTP_11)
        );
    }
}
