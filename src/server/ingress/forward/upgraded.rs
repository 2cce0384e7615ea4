//! An exchange that has become a connection: an upgrade, or an extended CONNECT.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWrite;

use super::super::Visit;
use crate::link::copy::both_ways;
use crate::link::framed::{FrameReader, FrameWriter};
use crate::protocol::exchange::ResponseHead;
use crate::server::ingress::entry::ending::Ending;
use crate::server::ingress::error_page::Failure;
use crate::server::ingress::forward::response_body::Held;
use crate::server::ingress::observe::exchange::Entry;
use crate::transport::streams::UpgradeTask;

/// Makes of a head that agrees to become a connection the one that the visitor gets; `agreed` is the protocol, in answer
/// to an upgrade.
pub(crate) fn agree(head: &mut ResponseHead, agreed: Option<HeaderValue>, is_connect: bool) -> Result<(), Failure> {
    match (head.status, agreed) {
        (StatusCode::SWITCHING_PROTOCOLS, Some(agreed)) if !is_connect => {
            head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            head.headers.insert(UPGRADE, agreed);
            Ok(())
        }
        // HTTP/2 has no 101 (RFC 8441, section 5).
        (StatusCode::SWITCHING_PROTOCOLS, _) => Err(Failure::LocalBroken),
        _ => Ok(()),
    }
}

/// An exchange that has become a connection.
pub(crate) struct Upgraded {
    pub(crate) reader: FrameReader,
    pub(crate) writer: FrameWriter,
    pub(crate) stream: Held,
    pub(crate) entry: Arc<Entry>,
    /// How long nothing may move, and how long the visitor may take nothing of what came before a break.
    pub(crate) quiet: Duration,
    pub(crate) idle: Duration,
    pub(crate) end: End,
}

/// How the visitor is told that the connection broke off: an orderly end would say that all was sent.
#[derive(Debug, Clone)]
pub(crate) enum End {
    /// Its connection ends with a reset.
    Connection(Arc<Ending>),
    /// Over HTTP/2 others share the connection: the stream is reset.
    Stream(Arc<UpgradeTask>),
}

impl End {
    /// For an upgrade that is agreed to now: the HTTP library starts its task before the connection's task waits again.
    pub(crate) fn of(visit: &Visit) -> Self {
        if !visit.is_http2() {
            return Self::Connection(Arc::clone(&visit.ending));
        }
        let task = Arc::new(UpgradeTask::default());
        task.announce();
        Self::Stream(task)
    }
}

/// Says so when it is dropped, whoever drops it.
struct CutUnlessWhole(Option<End>);

impl Drop for CutUnlessWhole {
    fn drop(&mut self) {
        match &self.0 {
            Some(End::Connection(ending)) => ending.set_cut(true),
            Some(End::Stream(task)) => task.cut_now(),
            None => {}
        }
    }
}

impl Upgraded {
    pub(crate) async fn run(self, visitor: OnUpgrade, visit: Arc<Visit>) {
        let Self { reader, writer, stream, entry, quiet, idle, end } = self;
        if let Ok(visitor) = visitor.await {
            let mut visitor = TokioIo::new(visitor);
            // Dropped before the connection is.
            let mut cut = CutUnlessWhole(Some(end.clone()));
            let carried = both_ways(&mut visitor, reader, writer, quiet, |way, bytes| entry.moved(way, bytes)).await;
            if carried.is_ok() {
                entry.complete();
                cut.0 = None;
            } else {
                break_off(&mut visitor, &end, &visit, idle).await;
            }
        }
        drop(stream);
    }
}

/// Breaks a connection off, after everything that was written on it.
async fn break_off(visitor: &mut (impl AsyncWrite + Unpin), end: &End, visit: &Visit, idle: Duration) {
    match end {
        End::Connection(ending) => {
            ending.set_cut(true);
            let flushed = poll_fn(|cx| {
                let sent = ending.poll_sent(cx);
                let flushed = Pin::new(&mut *visitor).poll_flush(cx);
                if sent.is_ready() { Poll::Ready(Ok(())) } else { flushed }
            });
            // A visitor that takes nothing for so long does not get the rest.
            let _ = tokio::time::timeout(idle, flushed).await;
        }
        End::Stream(task) => task.cut(&[&visit.passes], idle).await,
    }
}
