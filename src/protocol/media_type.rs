//! Types of media that decide how a message is carried. They have no case (RFC 9110, section 8.3.1).

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};

/// Whether a message is a stream of events as browsers read it (`text/event-stream`).
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    rest_of(headers, b"text/event-stream").is_some_and(|rest| matches!(rest.first(), None | Some(b';' | b' ' | b'\t')))
}

/// Whether a message is gRPC, plain or with a named encoding (`application/grpc+proto`). gRPC-Web is not: its failures
/// are those of HTTP.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    rest_of(headers, b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// What follows `kind` in the type of a message, if that begins with it.
fn rest_of<'h>(headers: &'h HeaderMap, kind: &[u8]) -> Option<&'h [u8]> {
    let (start, rest) = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes)?.split_at_checked(kind.len())?;
    start.eq_ignore_ascii_case(kind).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &'static str) -> (bool, bool) {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
        (is_event_stream(&headers), is_grpc(&headers))
    }

    #[test]
    fn types_of_media_have_no_case() {
        for kind in
            ["text/event-stream", "Text/Event-Stream", "text/event-stream; charset=utf-8", "TEXT/EVENT-STREAM;a=b"]
        {
            assert_eq!(of(kind), (true, false), "{kind}");
        }
        for kind in ["application/grpc", "Application/gRPC", "application/grpc+proto", "application/grpc; a=b"] {
            assert_eq!(of(kind), (false, true), "{kind}");
        }
        for kind in
            ["", "text/event", "text/event-streams", "application/grpc-web", "application/grpc-web+proto", "text/plain"]
        {
            assert_eq!(of(kind), (false, false), "{kind}");
        }
        assert!(!is_event_stream(&HeaderMap::new()) && !is_grpc(&HeaderMap::new()));
    }
}
