//! Requests of an `EventSource`. A browser that gets a status such as 429, 502 or 503 never tries again (HTML Standard,
//! section 9.2.3), but a connection that breaks off makes it reconnect. So such a request waits for its application or agent
//! to return, and where it would get a status that passes, it gets no answer at all.

use std::time::Duration;

use http::header::ACCEPT;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body::Body;
use tokio::time::Instant;

use crate::server::ingress::error_page::Failure;

/// How long a request waits.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The time between two attempts.
const PAUSE: Duration = Duration::from_millis(250);

/// Until when a request waits for its application or agent to return. Most requests do not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience(Option<Instant>);

/// A request that gets no answer: the visitor is to reconnect.
#[derive(Debug, thiserror::Error)]
#[error("the request gets no answer")]
pub(crate) struct NoAnswer;

impl Patience {
    /// Returns the patience of a request that has just arrived.
    pub(crate) fn of<B: Body>(request: &Request<B>) -> Self {
        let is_patient = request.method() == Method::GET && is_event_source(request) && request.body().is_end_stream();
        Self(is_patient.then(|| Instant::now() + LONGEST_WAIT))
    }

    /// Returns until when the request waits, if it does.
    pub(crate) fn until(self) -> Option<Instant> {
        self.0
    }

    /// Returns whether the request gets no answer instead of `failure`.
    pub(crate) fn bears(self, failure: &Failure) -> bool {
        let is_temporary = matches!(
            failure.status(),
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        );
        self.0.is_some() && is_temporary && *failure != Failure::CutByOperator
    }

    /// Waits before another attempt after `failure`. Returns `false` at once if there is to be none.
    pub(crate) async fn pause(self, failure: &Failure) -> bool {
        let until = self.0.filter(|until| self.bears(failure) && Instant::now() + PAUSE <= *until);
        if until.is_some() {
            tokio::time::sleep(PAUSE).await;
        }
        until.is_some()
    }
}

/// Returns whether a browser sends the request for an `EventSource`: it accepts nothing else. Other programs that read events
/// accept other types as well, or know what to do with a status.
fn is_event_source<B>(request: &Request<B>) -> bool {
    let mut accepted = request.headers().get_all(ACCEPT).iter();
    let is_events = |accept: &HeaderValue| accept.as_bytes().trim_ascii().eq_ignore_ascii_case(b"text/event-stream");
    accepted.next().is_some_and(is_events) && accepted.next().is_none()
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};

    use super::*;

    #[test]
    fn only_an_event_source_is_patient_and_only_for_a_while() {
        let get = |accept: &str| Request::get("/").header(ACCEPT, accept).body(Empty::<&[u8]>::new()).unwrap();
        let is_patient = |request: &Request<_>| Patience::of(request).0.is_some();
        assert!(is_patient(&get("text/event-stream")) && is_patient(&get("Text/Event-Stream")));
        for accept in
            ["*/*", "text/html,text/event-stream", "application/json, text/event-stream", "text/event-streams"]
        {
            assert!(!is_patient(&get(accept)), "{accept}");
        }
        let mut post = get("text/event-stream");
        *post.method_mut() = Method::POST;
        assert!(!is_patient(&post));
        assert!(Patience::of(&get("text/event-stream").map(|_| Full::new(&b"body"[..]))).0.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_that_may_pass_is_waited_for() {
        let request = Request::get("/").header(ACCEPT, "text/event-stream").body(Empty::<&[u8]>::new()).unwrap();
        for failure in [Failure::TunnelOffline, Failure::TunnelLost, Failure::LocalUnreachable, Failure::LocalTimeout] {
            let (patience, began) = (Patience::of(&request), Instant::now());
            let mut pauses = 0;
            while patience.pause(&failure).await {
                pauses += 1;
            }
            assert_eq!((pauses, began.elapsed()), (20, LONGEST_WAIT), "{failure:?}");
            assert!(patience.bears(&failure));
        }
        for failure in [Failure::UnknownName, Failure::Forbidden, Failure::BadRequest, Failure::CutByOperator] {
            let (patience, began) = (Patience::of(&request), Instant::now());
            assert!(
                !patience.pause(&failure).await && !patience.bears(&failure) && began.elapsed().is_zero(),
                "{failure:?}"
            );
        }
        assert!(Patience::of(&request).bears(&Failure::AddressBusy));
        assert!(!Patience(None).bears(&Failure::TunnelLost) && !Patience(None).pause(&Failure::TunnelLost).await);
    }
}
