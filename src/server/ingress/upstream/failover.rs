//! Failover: sends a request through another upstream if the first one does not take it.

use std::sync::Arc;
use std::time::Duration;

use http::Method;

use crate::server::directory::resolve::{Resolve, Upstream};
use crate::server::directory::tunnel::OpenFailure;
use crate::server::ingress::error_page::Failure;
use crate::values::TunnelId;

/// Maximum number of upstreams that one request is sent through.
const ATTEMPTS: usize = 3;

/// The upstream of one request or connection, and those that were tried before.
#[derive(Debug)]
pub(crate) struct Failover<U> {
    current: Arc<U>,
    tried: Vec<TunnelId>,
    /// How long opening a stream may take.
    deadline: Duration,
}

impl<U: Upstream> Failover<U> {
    /// Starts with `upstream`. Opening a stream may take `deadline`.
    pub(crate) fn new(upstream: &Arc<U>, deadline: Duration) -> Self {
        Self { current: Arc::clone(upstream), tried: Vec::new(), deadline }
    }

    /// Opens a stream and sends `first` on it. If an upstream takes no stream, tries another one.
    ///
    /// # Errors
    /// No upstream takes a stream, or the client has as many streams as it may.
    pub(crate) async fn open<D>(&mut self, directory: &D, first: &[u8]) -> Result<U::Stream, Failure>
    where
        D: Resolve<Upstream = U>,
    {
        loop {
            match self.current.open(first, self.deadline).await {
                Ok(opened) => return Ok(opened),
                // The limit is the same for all upstreams.
                Err(failure @ OpenFailure::ClientBusy) => return Err(failure.into()),
                Err(failure) if !self.advance(directory) => return Err(failure.into()),
                Err(_) => {}
            }
        }
    }

    /// Switches to another upstream after a failed request, if there is one and the request may be repeated: the application
    /// has not received it, or its method is idempotent (RFC 9110, section 9.2.2). Returns whether it has switched.
    pub(crate) fn retry<D>(&mut self, directory: &D, failure: &Failure, method: &Method) -> bool
    where
        D: Resolve<Upstream = U>,
    {
        let may_repeat = *failure == Failure::TunnelLost && method.is_idempotent();
        (failure.is_before_the_application() || may_repeat) && self.advance(directory)
    }

    fn advance<D>(&mut self, directory: &D) -> bool
    where
        D: Resolve<Upstream = U>,
    {
        self.tried.push(self.current.tunnel());
        if self.tried.len() >= ATTEMPTS {
            return false;
        }
        match directory.another(&self.current, &self.tried) {
            Some(next) => self.current = next,
            None => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::ingress::upstream::testing::{FakePeer, FixedDirectory};

    const DEADLINE: Duration = Duration::from_secs(1);

    fn peers(outcomes: &[Result<(), OpenFailure>]) -> FixedDirectory {
        let peers = outcomes.iter().map(|outcome| FakePeer::new("alice", *outcome)).collect();
        FixedDirectory { names: [("blog".parse().unwrap(), peers)].into(), ..FixedDirectory::default() }
    }

    fn start(directory: &FixedDirectory) -> Failover<FakePeer> {
        Failover::new(&directory.by_name(&"blog".parse().unwrap()).unwrap(), DEADLINE)
    }

    fn opened(directory: &FixedDirectory) -> Vec<usize> {
        directory.names.values().flatten().map(|peer| peer.opened()).collect()
    }

    #[tokio::test]
    async fn an_upstream_that_takes_no_stream_is_passed_over() {
        let directory = peers(&[Err(OpenFailure::Gone), Err(OpenFailure::Busy), Ok(())]);
        start(&directory).open(&directory, b"head").await.unwrap();
        assert_eq!(opened(&directory), [1, 1, 1]);
    }

    #[tokio::test]
    async fn the_last_failure_is_told_when_no_upstream_is_left() {
        let directory = peers(&[Err(OpenFailure::Gone), Err(OpenFailure::Stalled)]);
        let failure = start(&directory).open(&directory, b"head").await.unwrap_err();
        assert_eq!((failure, opened(&directory)), (Failure::TunnelStalled, vec![1, 1]));
        let directory = peers(&[Err(OpenFailure::Gone); ATTEMPTS + 1]);
        let failure = start(&directory).open(&directory, b"head").await.unwrap_err();
        assert_eq!((failure, opened(&directory)), (Failure::TunnelOffline, vec![1, 1, 1, 0]));
    }

    #[tokio::test]
    async fn a_client_without_streams_gets_none_elsewhere() {
        let directory = peers(&[Err(OpenFailure::ClientBusy), Ok(())]);
        let failure = start(&directory).open(&directory, b"head").await.unwrap_err();
        assert_eq!((failure, opened(&directory)), (Failure::TunnelBusy, vec![1, 0]));
    }

    #[tokio::test]
    async fn only_a_request_that_may_be_repeated_goes_to_another_upstream() {
        let directory = peers(&[Ok(()), Ok(())]);
        assert!(!start(&directory).retry(&directory, &Failure::TunnelLost, &Method::POST));
        assert!(start(&directory).retry(&directory, &Failure::TunnelLost, &Method::PUT));
        let mut failover = start(&directory);
        failover.open(&directory, b"head").await.unwrap();
        assert!(failover.retry(&directory, &Failure::TunnelLost, &Method::GET));
        failover.open(&directory, b"head").await.unwrap();
        assert_eq!(opened(&directory), [1, 1]);
        assert!(!failover.retry(&directory, &Failure::TunnelLost, &Method::GET), "both were tried");
    }
}
