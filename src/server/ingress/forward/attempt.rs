//! A request on its way to the application: the stream that carries it, and further ones if it is sent again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::{Method, StatusCode};
use tokio::sync::oneshot;

use super::Target;
use super::abort_on_drop::AbortOnDrop;
use crate::link::framed::FrameReader;
use crate::protocol::decode::{Decoder, Event};
use crate::protocol::exchange::ResponseHead;
use crate::protocol::frame::{MAX_RESPONSE_HEAD, Status};
use crate::protocol::login::ServiceKind;
use crate::server::directory::offered::Offered;
use crate::server::directory::registry::Registry;
use crate::server::ingress::error_page::Failure;
use crate::server::ingress::observe::forwarded::ForwardedExchange;
use crate::server::ingress::pipeline::context::RequestContext;
use crate::server::ingress::upstream::failover::Failover;

/// A request, and the stream that carries it now.
pub(super) struct Attempt<'a> {
    context: &'a RequestContext<'a>,
    target: &'a Target,
    exchange: &'a Arc<ForwardedExchange>,
    failover: Failover<Offered>,
    /// All of a short request, which can be sent again. Empty if there is more.
    request: BytesMut,
    method: Method,
    pub(super) opened: Opened,
}

/// A stream that was opened. Dropping it early resets it.
pub(super) struct Opened {
    pub(super) stream: AbortOnDrop,
    pub(super) reader: FrameReader,
}

impl<'a> Attempt<'a> {
    /// Opens a stream for a request that begins with `first`, and has nothing more if it `is_short`.
    pub(super) async fn begin(
        context: &'a RequestContext<'a>,
        target: &'a Target,
        exchange: &'a Arc<ForwardedExchange>,
        first: BytesMut,
        method: Method,
        is_short: bool,
    ) -> Result<Self, Failure> {
        let mut failover = Failover::new(&target.offered, context.settings.config.timeouts.head);
        let opened = match open(directory_of(context), &mut failover, &first, exchange).await {
            Err(failure) if context.patience.bears(&failure) => {
                Box::pin(reopen(context, target, exchange, &mut failover, &first, failure)).await?
            }
            opened => opened?,
        };
        let request = if is_short { first } else { BytesMut::new() };
        Ok(Self { context, target, exchange, failover, request, method, opened })
    }

    /// Waits for the final head of the answer. Sends a short request again if it may be repeated.
    pub(super) async fn head(
        &mut self,
        mut asks: Option<oneshot::Sender<()>>,
        mut sending: Option<oneshot::Receiver<Infallible>>,
    ) -> Result<Box<ResponseHead>, Failure> {
        let limit = self.context.settings.config.timeouts.response_head;
        loop {
            let answered = answered(response_head(&mut self.opened.reader, asks.take()), sending.take(), limit).await;
            let failure = match answered {
                Ok(head) => return Ok(head),
                Err(failure) => self.exchange.failure().unwrap_or(failure),
            };
            let may_repeat = !self.request.is_empty() && !self.exchange.is_cut();
            let directory = directory_of(self.context);
            self.opened = if may_repeat && self.failover.retry(directory, &failure, &self.method) {
                open(directory, &mut self.failover, &self.request, self.exchange).await?
            } else if may_repeat && self.context.patience.bears(&failure) {
                let Self { context, target, exchange, failover, request, .. } = self;
                Box::pin(reopen(context, target, exchange, failover, request, failure)).await?
            } else {
                return Err(failure);
            };
            self.opened.stream.0.write_ended();
        }
    }
}

fn directory_of<'a>(context: &RequestContext<'a>) -> &'a Registry {
    &context.connection.ingress.directory.registry
}

/// Opens a stream for a request that begins with `first`.
async fn open(
    directory: &Registry,
    failover: &mut Failover<Offered>,
    first: &[u8],
    exchange: &ForwardedExchange,
) -> Result<Opened, Failure> {
    exchange.release();
    let (stream, permit) = failover.open(directory, first).await?;
    exchange.hold(&stream, permit);
    let stream = AbortOnDrop(stream);
    let reader = FrameReader::new(stream.0.clone(), Decoder::response(MAX_RESPONSE_HEAD));
    Ok(Opened { stream, reader })
}

/// Waits for the application or the agent of a patient request to return after `failure`, and opens a stream to it.
async fn reopen(
    context: &RequestContext<'_>,
    target: &Target,
    exchange: &ForwardedExchange,
    failover: &mut Failover<Offered>,
    first: &[u8],
    mut failure: Failure,
) -> Result<Opened, Failure> {
    let directory = directory_of(context);
    exchange.release();
    while !exchange.is_cut() && context.patience.pause(&failure).await {
        let Some(offered) = offered_again(directory, target) else { continue };
        *failover = Failover::new(&offered, context.settings.config.timeouts.head);
        match open(directory, failover, first, exchange).await {
            Ok(opened) => return Ok(opened),
            Err(again) => failure = again,
        }
    }
    Err(exchange.failure().unwrap_or(failure))
}

/// Returns who serves the target's name now, if it is the same client on the same conditions: the request has passed those.
fn offered_again(directory: &Registry, target: &Target) -> Option<Arc<Offered>> {
    let (before, now) = (&target.offered, directory.by_name(target.name())?);
    let is_same = now.tunnel.client() == before.tunnel.client()
        && now.service.kind() == ServiceKind::Http
        && now.service.offer().access == before.service.offer().access;
    is_same.then_some(now)
}

/// Waits for the head of the answer. Its deadline counts from when the whole request is on its way.
async fn answered(
    head: impl Future<Output = Result<Box<ResponseHead>, Failure>>,
    sending: Option<oneshot::Receiver<Infallible>>,
    limit: Duration,
) -> Result<Box<ResponseHead>, Failure> {
    let deadline = async {
        if let Some(sent) = sending {
            // Nothing comes: this waits for the other end to be dropped.
            let _: Result<Infallible, _> = sent.await;
        }
        tokio::time::sleep(limit).await;
    };
    tokio::select! {
        biased;
        answered = head => answered,
        () = deadline => Err(Failure::ResponseTimeout),
    }
}

/// Waits for the final head. A 100 is told to `asks`, and the visitor gets it when its body is asked for; other interim
/// ones are passed over: hyper sends none.
async fn response_head(
    reader: &mut FrameReader,
    mut asks: Option<oneshot::Sender<()>>,
) -> Result<Box<ResponseHead>, Failure> {
    loop {
        match reader.event().await {
            Ok(Event::Status(Status::Accepted)) => {}
            Ok(Event::Informational(head)) => {
                if head.status == StatusCode::CONTINUE
                    && let Some(asks) = asks.take()
                {
                    // The receiver is gone if the upload no longer waits.
                    let _ = asks.send(());
                }
            }
            Ok(Event::Response(head)) => {
                if let Some(asks) = asks.filter(|_| wants_body(head.status)) {
                    let _ = asks.send(());
                }
                return Ok(head);
            }
            Ok(Event::Status(status)) => return Err(Failure::of_status(status)),
            Ok(Event::Reset(reason)) => return Err(Failure::of_reset(reason)),
            Ok(_) | Err(_) => return Err(Failure::TunnelLost),
        }
    }
}

/// Whether an application that answers before it has the body wants that all the same: one that refuses does not, others
/// answer while they read (RFC 9110, section 10.1.1).
fn wants_body(status: StatusCode) -> bool {
    !status.is_client_error() && !status.is_server_error()
}
