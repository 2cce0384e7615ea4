//! Answers a request head that the HTTP library cannot read. hyper answers those itself, with a status and nothing else; the
//! socket writes another answer in place of that one.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;

/// Answers heads that cannot be read.
pub(crate) trait AnswerUnreadable: Debug + Send + Sync {
    /// Returns the whole answer, after which the connection closes. `status` is what hyper would have answered.
    fn answer(&self, status: StatusCode) -> Bytes;
}

/// The answer to the last head of a connection, if that cannot be read.
#[derive(Debug)]
pub(crate) struct UnreadableHead {
    answers: Arc<dyn AnswerUnreadable>,
    /// What is left of the answer.
    pub(crate) rest: Bytes,
}

impl UnreadableHead {
    pub(crate) fn new(answers: Arc<dyn AnswerUnreadable>) -> Self {
        Self { answers, rest: Bytes::new() }
    }

    /// Prepares the answer that takes the place of hyper's.
    pub(crate) fn begin(&mut self, status: StatusCode) {
        self.rest = self.answers.answer(status);
    }
}

/// The statuses of hyper's own answers.
const OWN: [StatusCode; 3] =
    [StatusCode::BAD_REQUEST, StatusCode::URI_TOO_LONG, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE];

/// The longest answer of hyper's own.
const MOST: usize = 128;

/// Returns the status of `written`, if that is an answer as hyper gives it to a head that it cannot read. An application's
/// answer can be the same, byte for byte.
pub(crate) fn own_answer(written: &[u8]) -> Option<StatusCode> {
    if written.len() > MOST || !written.starts_with(b"HTTP/1.") || !written.ends_with(b"\r\n\r\n") {
        return None;
    }
    let mut lines = std::str::from_utf8(written).ok()?.split("\r\n");
    let status = StatusCode::from_bytes(lines.next()?.as_bytes().get(9..12)?).ok()?;
    let is_own = |line: &str| matches!(line, "connection: close" | "content-length: 0" | "");
    (OWN.contains(&status) && lines.all(is_own)).then_some(status)
}

#[cfg(test)]
mod tests {
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_the_library_answers_is_known() {
        for (head, status) in [
            ("GET /< HTTP/1.1\r\n\r\n".to_owned(), 400),
            ("G\"T / HTTP/1.1\r\n\r\n".to_owned(), 400),
            ("GET / HTTP/1.1\r\nX\"Y: a\r\n\r\n".to_owned(), 400),
            (format!("GET / HTTP/1.1\r\n{}\r\n", "X: a\r\n".repeat(200)), 431),
            (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000)), 414),
        ] {
            let (mut visitor, server) = tokio::io::duplex(200_000);
            let service = service_fn(async |_| Ok::<_, hyper::Error>(http::Response::new(String::new())));
            let connection = hyper::server::conn::http1::Builder::new()
                .auto_date_header(false)
                .serve_connection(TokioIo::new(server), service);
            visitor.write_all(head.as_bytes()).await.unwrap();
            assert!(connection.await.is_err(), "{head:.20}");
            let mut answer = Vec::new();
            visitor.read_to_end(&mut answer).await.unwrap();
            assert_eq!(own_answer(&answer).map(|status| status.as_u16()), Some(status), "{}", answer.escape_ascii());
        }
        for other in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n", "HTTP/1.1 4"]
        {
            assert_eq!(own_answer(other.as_bytes()), None, "{other}");
        }
    }
}
