//! What serves the requests of a service: a local application, or a tower service in this process.
//!
//! [`Backend`] chooses between the two without dynamic dispatch: the path to a local application pays for one comparison.
//! [`head_rewriter`] is common to both: it turns a visitor's request into the backend's, and the response back.

pub(in crate::agent) mod address_map;
pub(in crate::agent) mod body;
pub(in crate::agent) mod error;
pub(in crate::agent) mod head_rewriter;
pub(in crate::agent) mod in_process;
pub(in crate::agent) mod local;
pub(in crate::agent) mod upgrade;
mod websocket;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::Either;
use http::{Request, Response};
use rustls::ClientConfig;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::agent::options::{LocalUrl, Place, Service};
use crate::protocol::exchange::RequestHead;
use crate::protocol::frame::Reset;
use crate::protocol::preface::Preface;
use crate::values::Name;
use address_map::PublicOrigin;
use body::{RequestBody, ResponseBody, take_request};
use error::BackendError;
use head_rewriter::{BackendRequest, UpgradeMode};
use in_process::{InProcessBackend, InProcessServices};
use local::http1::Sending;
use local::http2::StreamSlot;
use local::{Local, LocalTls};

/// What backends are made with, beside the configuration of their service.
#[derive(Debug, Clone)]
pub(in crate::agent) struct BackendContext {
    pub(in crate::agent) connect_timeout: Duration,
    /// Runs the tasks of connections.
    pub(in crate::agent) tasks: TaskTracker,
    pub(in crate::agent) in_process: Arc<InProcessServices>,
}

/// One backend of a service.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every backend is local, and a box would cost each request a load"
)]
pub(in crate::agent) enum Backend {
    Local(Local),
    InProcess(InProcessBackend),
}

/// A response, and what belongs to it while it is read.
pub(in crate::agent) struct BackendResponse {
    pub(in crate::agent) response: Response<ResponseBody>,
    /// The rest of the request, if the application has answered before it received all of it.
    pub(in crate::agent) unsent: Option<Sending>,
    /// The request's place on an HTTP/2 connection.
    pub(in crate::agent) slot: Option<StreamSlot>,
}

impl Backend {
    /// Creates the backend of `service` at `url`. Returns `None` if no request can name that address.
    pub(in crate::agent) fn new(
        service: &Service,
        url: &LocalUrl,
        tls: &LocalTls,
        context: &BackendContext,
    ) -> Option<Self> {
        if url.place == Place::InProcess {
            return InProcessBackend::new(service, context).map(Self::InProcess);
        }
        let tls: Option<&[Arc<ClientConfig>; 2]> = tls.get(&service.name);
        Local::new(service, url, tls, context).map(Self::Local)
    }

    /// Returns the local application, if it is one.
    pub(in crate::agent) fn as_local(&self) -> Option<&Local> {
        match self {
            Self::Local(local) => Some(local),
            Self::InProcess(_) => None,
        }
    }

    /// Returns the request that the backend receives.
    pub(in crate::agent) fn request(&self, head: Box<RequestHead>, body: RequestBody) -> Result<BackendRequest, Reset> {
        match self {
            Self::Local(local) => {
                let over_http2 = local.takes_http2(&head);
                local.rewriter.request(head, body, over_http2)
            }
            Self::InProcess(backend) => backend.rewriter.request(head, body, false),
        }
    }

    /// Sends the request, which it takes, and waits for the head of the response. Notifies `body_wanted` when the backend
    /// asks for the body.
    ///
    /// Not an asynchronous function: that would move the response of a local application once more.
    pub(in crate::agent) fn send<'a>(
        &'a self,
        request: &'a mut Request<RequestBody>,
        preface: &'a Preface,
        body_wanted: Option<&'a Arc<Notify>>,
    ) -> impl Future<Output = Result<BackendResponse, BackendError>> + Send + 'a {
        match self {
            Self::Local(local) => Either::Left(local.send(request, preface, body_wanted)),
            Self::InProcess(backend) => Either::Right(Box::pin(async move {
                let response = backend.send(take_request(request), body_wanted.cloned()).await?;
                Ok(BackendResponse { response, unsent: None, slot: None })
            })),
        }
    }

    /// Turns the backend's response to a request for `origin` into the visitor's. Returns whether the connection is
    /// upgraded.
    pub(in crate::agent) fn rewrite_response(
        &self,
        response: &mut Response<ResponseBody>,
        upgrade: &UpgradeMode,
        origin: Option<&PublicOrigin>,
    ) -> Result<bool, BackendError> {
        match self {
            Self::Local(local) => local.rewriter.response(response, upgrade, origin),
            Self::InProcess(backend) => backend.rewriter.response(response, upgrade, origin),
        }
    }

    /// Records that the backend has answered, and logs its recovery.
    pub(in crate::agent) fn report_success(&self, name: &Name) {
        match self {
            Self::Local(local) => local.report_success(name),
            Self::InProcess(backend) => backend.report_success(name),
        }
    }

    /// Records that the backend has failed, and logs that unless the log has it already.
    pub(in crate::agent) fn report_failure(&self, name: &Name, error: &BackendError) {
        match self {
            Self::Local(local) => local.report_failure(name, error),
            Self::InProcess(backend) => backend.report_failure(name, error),
        }
    }
}
