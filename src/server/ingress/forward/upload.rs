//! The body of a request, on its way to the agent.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body::Body;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::link::body::{SendError, send_body};
use crate::link::copy::Way;
use crate::link::framed::FrameWriter;
use crate::link::session::Stream;
use crate::protocol::frame::Reset;
use crate::server::ingress::connection::ConnectionContext;
use crate::server::ingress::error_page::Failure;
use crate::server::ingress::observe::forwarded::ForwardedExchange;
use crate::server::ingress::pipeline::request_body::RequestBody;

/// How long a request that waits to be asked for its body (`Expect: 100-continue`) is held back. The agent asks sooner;
/// an application may do without asking (RFC 9110, section 10.1.1).
const ASKED_FOR: Duration = Duration::from_secs(5);

/// How often an upload that does not come on looks whether anybody still wants it.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Begins to send `body` after its head, in a task of its own; if it `waits`, not before the application asks for it.
/// Gives back what is dropped when it is through, and where to say that it is asked for.
pub(crate) fn begin(
    connection: &Arc<ConnectionContext>,
    exchange: &Arc<ForwardedExchange>,
    body: RequestBody,
    waits: bool,
    writer: FrameWriter,
    idle: Duration,
) -> (oneshot::Receiver<Infallible>, Option<oneshot::Sender<()>>) {
    let (sender, sent) = oneshot::channel();
    let (asks, asked_for) = waits.then(oneshot::channel).unzip();
    let (unread, request_id) = (connection.signals.unread.clone(), exchange.request_id());
    let (visitor, exchange) = (Arc::clone(connection), Arc::clone(exchange));
    let upload = async move {
        let mut body = body;
        if upload(&mut body, asked_for, writer, idle, exchange, sender).await {
            unread.read(request_id);
        } else {
            visitor.discard_body(body);
        }
    };
    connection.ingress.spawn(upload);
    (sent, asks)
}

/// Sends the body of a request after its head, and drops `sending` when it is through. Where there is an `asked_for`, it
/// is not sent before the application asks for it, and not at all if that refuses it. Says whether it was read to its
/// end.
async fn upload(
    body: &mut RequestBody,
    asked_for: Option<oneshot::Receiver<()>>,
    mut writer: FrameWriter,
    idle: Duration,
    exchange: Arc<ForwardedExchange>,
    sending: oneshot::Sender<Infallible>,
) -> bool {
    let _sending = sending;
    if let Some(asked_for) = asked_for
        && let Ok(Err(_)) = tokio::time::timeout(ASKED_FOR, asked_for).await
    {
        return false;
    }
    let evicted = evicted(body.evicted());
    let mut body = std::pin::Pin::new(body);
    let stream = writer.stream().clone();
    let sent = tokio::select! {
        biased;
        () = evicted => {
            exchange.fail(Failure::AccessBusy);
            writer.reset(Reset::RequestBroken);
            return false;
        }
        sent = send_body(body.as_mut(), &mut writer, Some(idle), |bytes| exchange.moved(Way::In, bytes)) => sent,
        () = unwanted(&stream) => return false,
    };
    let (failure, reason) = match sent {
        Ok(()) => return true,
        // The agent wants no more of it: the answer says why.
        Err(SendError::Stream(_)) => return body.is_end_stream(),
        Err(SendError::Body(_) | SendError::Trailers) => (Failure::BadRequest, Reset::RequestBroken),
        Err(SendError::Idle) => (Failure::RequestTimeout, Reset::Idle),
    };
    exchange.fail_unless_complete(failure);
    // After what came before.
    tokio::select! {
        biased;
        () = writer.break_off(reason) => {}
        () = unwanted(&stream) => {}
        () = tokio::time::sleep(idle) => stream.abort(),
    }
    body.is_end_stream()
}

/// Resolves when the room of a held body is needed for others.
pub(crate) async fn evicted(evicted: Option<CancellationToken>) {
    match evicted {
        Some(evicted) => evicted.cancelled_owned().await,
        None => std::future::pending().await,
    }
}

/// Resolves when the agent has dropped the stream: the application wants no more of the request. Only who writes would
/// notice, and a visitor may pause.
async fn unwanted(stream: &Stream) {
    while !stream.is_closed() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
