//! A request's head, out of the buffer that it was read into.
//!
//! hyper reads a head into 8 KiB, hands parts of them out, and goes on to read from the visitor while the request is under way.
//! As long as one of those parts is held, that takes it another 8 KiB for every request.

use bytes::{Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Uri};

/// Larger heads stay where they are: a buffer is hardly larger than what would be copied.
const MOST: usize = 2048;

/// Copies what is left of the head in its buffer, so that the buffer can be used again.
pub(crate) fn detach<B>(request: &mut Request<B>) {
    let target = origin_form(request.uri()).map_or(0, |target| target.as_str().len());
    let size = request.headers().values().map(HeaderValue::len).sum::<usize>() + target;
    if size > MOST {
        return;
    }
    let mut copy = BytesMut::with_capacity(size);
    if let Some(target) = origin_form(request.uri()) {
        copy.extend_from_slice(target.as_str().as_bytes());
    }
    request.headers().values().for_each(|value| copy.extend_from_slice(value.as_bytes()));
    let mut copy = copy.freeze();
    if target > 0 {
        // It is what was taken in a moment ago.
        if let Ok(target) = PathAndQuery::from_maybe_shared(copy.split_to(target)) {
            *request.uri_mut() = Uri::from(target);
        }
    }
    for value in request.headers_mut().values_mut() {
        let copied: Bytes = copy.split_to(value.len());
        if let Ok(copied) = HeaderValue::from_maybe_shared(copied) {
            *value = copied;
        }
    }
}

/// The target of a request that names no host in it, as nearly all do.
fn origin_form(uri: &Uri) -> Option<&PathAndQuery> {
    let is_whole = uri.scheme().is_none() && uri.authority().is_none();
    uri.path_and_query().filter(|_| is_whole)
}

#[cfg(test)]
mod tests {
    use http::Method;
    use proptest::prelude::*;

    use super::*;

    /// A request as hyper makes it: target and values are parts of one buffer.
    fn request(target: &str, values: &[Vec<u8>]) -> (Bytes, Request<()>) {
        let all: Vec<u8> = target.bytes().chain(values.iter().flatten().copied()).collect();
        let buffer = Bytes::from(all);
        let mut request = Request::new(());
        *request.method_mut() = Method::GET;
        let mut rest = buffer.clone();
        *request.uri_mut() = Uri::from_maybe_shared(rest.split_to(target.len())).unwrap();
        for value in values {
            let value = HeaderValue::from_maybe_shared(rest.split_to(value.len())).unwrap();
            request.headers_mut().append("x-value", value);
        }
        drop(rest);
        (buffer, request)
    }

    #[test]
    fn nothing_of_the_buffer_is_held() {
        for target in ["/", "/a%20b?c=d&e=%ff", "*", "/only/a/path"] {
            let (buffer, mut request) = request(target, &[b"one".to_vec(), Vec::new(), b"t\xfcr".to_vec()]);
            assert!(!buffer.is_unique());
            detach(&mut request);
            assert!(buffer.is_unique(), "{target}");
            assert_eq!((request.uri().to_string().as_str(), request.headers().len()), (target, 3));
        }
    }

    proptest! {
        #[test]
        fn a_head_stays_what_it_was(
            target in "(/[a-z0-9/%]{0,20}(\\?[a-z=&]{0,10})?|http://[a-z]{1,9}(:80)?/[a-z]{0,9}|[a-z]{1,9}:443|\\*)",
            values in prop::collection::vec(prop::collection::vec(0x20_u8..0x7f, 0..1500), 0..6),
        ) {
            let (_, mut request) = request(&target, &values);
            let (uri, headers) = (request.uri().clone(), request.headers().clone());
            detach(&mut request);
            prop_assert_eq!((request.uri(), request.headers()), (&uri, &headers));
        }
    }
}
