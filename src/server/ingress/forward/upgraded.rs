//! An exchange that has become a connection: an upgrade, or an extended CONNECT.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use http::{HeaderValue, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWrite;

use crate::link::copy::both_ways;
use crate::link::framed::{FrameReader, FrameWriter};
use crate::protocol::exchange::ResponseHead;
use crate::server::http_connection::close::CloseState;
use crate::server::ingress::connection::ConnectionContext;
use crate::server::ingress::error_page::Failure;
use crate::server::ingress::forward::abort_on_drop::AbortOnDrop;
use crate::server::ingress::forward::response;
use crate::server::ingress::forward::response_body::ForwardedBody;
use crate::server::ingress::observe::forwarded::ForwardedExchange;
use crate::transport::streams::UpgradeTask;

/// Makes of a head that agrees to become a connection the one that the visitor gets; `agreed` is the protocol, in answer
/// to an upgrade.
fn agree(head: &mut ResponseHead, agreed: Option<HeaderValue>, is_connect: bool) -> Result<(), Failure> {
    // What follows is no body (RFC 9110, section 8.6): a client would count its bytes.
    head.headers.remove(CONTENT_LENGTH);
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
    pub(crate) stream: AbortOnDrop,
    pub(crate) exchange: Arc<ForwardedExchange>,
    /// How long nothing may move, and how long the visitor may take nothing of what came before a break.
    pub(crate) quiet: Duration,
    pub(crate) idle: Duration,
}

/// How the visitor learns that the connection broke off: a normal close would make it look complete.
#[derive(Debug, Clone)]
enum BreakOff {
    /// Its connection ends with a reset.
    Connection(Arc<CloseState>),
    /// Over HTTP/2 others share the connection: the stream is reset.
    Stream(Arc<UpgradeTask>),
}

impl BreakOff {
    /// For an upgrade that is agreed to now: the HTTP library starts its task before the connection's task waits again.
    fn of(connection: &ConnectionContext) -> Self {
        if !connection.is_http2() {
            return Self::Connection(Arc::clone(&connection.signals.close));
        }
        let task = Arc::new(UpgradeTask::default());
        task.announce();
        Self::Stream(task)
    }
}

/// Cuts the visitor's connection or stream when it is dropped, unless the exchange was complete.
struct CutUnlessWhole(Option<BreakOff>);

impl Drop for CutUnlessWhole {
    fn drop(&mut self) {
        match &self.0 {
            Some(BreakOff::Connection(close)) => close.set_cut(true),
            Some(BreakOff::Stream(task)) => task.cut_now(),
            None => {}
        }
    }
}

impl Upgraded {
    /// Agrees to the upgrade with `head` and carries the connection in a task. `agreed` is the protocol of the upgrade.
    pub(crate) fn start(
        self,
        connection: &Arc<ConnectionContext>,
        visitor: OnUpgrade,
        mut head: Box<ResponseHead>,
        agreed: Option<HeaderValue>,
        is_connect: bool,
    ) -> Result<Response<ForwardedBody>, Failure> {
        agree(&mut head, agreed, is_connect)?;
        let end = BreakOff::of(connection);
        connection.ingress.spawn(self.run(visitor, Arc::clone(connection), end));
        Ok(response(*head, ForwardedBody::empty()))
    }

    async fn run(self, visitor: OnUpgrade, connection: Arc<ConnectionContext>, end: BreakOff) {
        let Self { reader, writer, stream, exchange, quiet, idle } = self;
        if let Ok(visitor) = visitor.await {
            let mut visitor = TokioIo::new(visitor);
            // Dropped before the connection is.
            let mut cut = CutUnlessWhole(Some(end.clone()));
            let carried = both_ways(&mut visitor, reader, writer, quiet, |way, bytes| exchange.moved(way, bytes)).await;
            if carried.is_ok() {
                exchange.complete();
                cut.0 = None;
            } else {
                break_off(&mut visitor, &end, &connection, idle).await;
            }
        }
        drop(stream);
    }
}

/// Breaks a connection off, after everything that was written on it.
async fn break_off(
    visitor: &mut (impl AsyncWrite + Unpin),
    end: &BreakOff,
    connection: &ConnectionContext,
    idle: Duration,
) {
    match end {
        BreakOff::Connection(close) => {
            close.set_cut(true);
            let flushed = poll_fn(|cx| {
                let sent = close.poll_sent(cx);
                let flushed = Pin::new(&mut *visitor).poll_flush(cx);
                if sent.is_ready() { Poll::Ready(Ok(())) } else { flushed }
            });
            // A visitor that takes nothing for so long does not get the rest.
            let _ = tokio::time::timeout(idle, flushed).await;
        }
        BreakOff::Stream(task) => task.cut(&[&connection.passes], idle).await,
    }
}
