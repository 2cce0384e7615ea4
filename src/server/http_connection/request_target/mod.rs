//! Detects request targets that the HTTP library would change.
//!
//! A fragment is not part of a request target (RFC 9112, section 3.2; RFC 9113, section 8.3.1). `http::Uri` cuts it off, so
//! that `DELETE /keep/#x` would delete `/keep/`. hyper shows the target only after that, so these readers look for `#` in
//! the bytes on their way to hyper: [`Http1Targets`] in request lines, [`Http2Targets`] in `:path`. They change nothing that
//! reaches an application; a request with a `#` in its target is answered with 400.
//!
//! A reader that cannot follow a connection any more, or that hyper may not agree with, refuses every later request of that
//! connection. Clients that keep to the standards never come to that.

mod hpack;
mod http1;
mod http2;

pub(crate) use http1::Http1Targets;
pub(crate) use http2::Http2Targets;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, Method, Uri, Version};

/// Which requests of an HTTP/1.1 connection have a fragment in their target: the first of them, and all behind it, because
/// the connection ends with its answer.
#[derive(Debug, Clone)]
pub(crate) struct FirstBad(Arc<AtomicU64>);

impl FirstBad {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }

    fn set(&self, number: u64) {
        self.0.fetch_min(number, Ordering::AcqRel);
    }

    /// Whether the request with this number is refused; the first one has the number 0.
    pub(crate) fn includes(&self, number: u64) -> bool {
        number >= self.0.load(Ordering::Acquire)
    }
}

/// The field that [`Http2Targets`] adds to a request with a fragment in its target.
const MARK: HeaderName = HeaderName::from_static("x-adit-bad-target");

/// Which requests of an HTTP/2 connection are refused.
#[derive(Debug, Clone, Default)]
pub(crate) struct Marks(Arc<AtomicU8>);

/// No request of the connection has had a fragment in its target.
const NONE: u8 = 0;
/// Some have; they have the field [`MARK`].
const MARKED: u8 = 1;
/// The targets cannot be read any more.
const ALL: u8 = 2;

impl Marks {
    fn begin(&self) {
        self.0.fetch_max(MARKED, Ordering::AcqRel);
    }

    fn refuse_all(&self) {
        self.0.store(ALL, Ordering::Release);
    }

    /// Whether a request with these fields is refused.
    pub(crate) fn include(&self, headers: &HeaderMap) -> bool {
        match self.0.load(Ordering::Acquire) {
            NONE => false,
            MARKED => headers.contains_key(MARK),
            _ => true,
        }
    }
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
