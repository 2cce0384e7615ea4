//! Answers and records requests whose head the HTTP library cannot read.

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use http::{Request, StatusCode};
use http_body_util::BodyExt;

use crate::server::http_connection::unreadable::AnswerUnreadable;
use crate::server::ingress::connection::ConnectionContext;
use crate::server::ingress::error_page::{Failure, Form};
use crate::server::ingress::observe::exchange::Exchange;
use crate::server::ingress::observe::record::ExchangeRecord;
use crate::values::RequestId;

impl AnswerUnreadable for ConnectionContext {
    fn answer(&self, status: StatusCode) -> Bytes {
        let failure = match status {
            StatusCode::URI_TOO_LONG | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Failure::HeadTooLarge,
            _ => Failure::BadRequest,
        };
        let (request_id, peer, code) = (RequestId::next(), self.peer, failure.code());
        tracing::debug!(request = %request_id, visitor = %peer, code, "a request cannot be read");
        let record = ExchangeRecord::of_unreadable(request_id, peer.ip());
        let mut exchange = Exchange::open(&self.ingress.observers, record);
        let answer = failure.answer(request_id, Form::Line, None);
        let (head, body) = answer.into_parts();
        // It is all there.
        let body = body.collect().now_or_never().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
        exchange.failed(failure, body.len(), &Request::new(()));
        let mut whole = BytesMut::with_capacity(512 + body.len());
        let reason = head.status.canonical_reason().unwrap_or_default();
        whole.put_slice(format!("HTTP/1.1 {} {reason}\r\n", head.status.as_str()).as_bytes());
        for (name, value) in &head.headers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                whole.put_slice(part);
            }
        }
        whole.put_slice(format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len()).as_bytes());
        whole.put_slice(&body);
        whole.freeze()
    }
}
