//! Local applications: dials them and keeps connections to them, over HTTP/1.1 or HTTP/2.

pub(in crate::agent) mod dedicated_stream;
pub(in crate::agent) mod dial;
pub(in crate::agent) mod http1;
pub(in crate::agent) mod http2;
mod idle_check;
pub(in crate::agent) mod replay;
pub(in crate::agent) mod upstream_health;

use std::collections::HashMap;
use std::sync::Arc;

use http::header::UPGRADE;
use http::{Request, Version};
use rustls::ClientConfig;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::agent::backend::body::{RequestBody, ResponseBody, take_request};
use crate::agent::backend::error::BackendError;
use crate::agent::backend::head_rewriter::HeadRewriter;
use crate::agent::backend::{BackendContext, BackendResponse};
use crate::agent::options::{LocalScheme, LocalUrl, Service};
use crate::protocol::exchange::RequestHead;
use crate::protocol::login::ServiceKind;
use crate::protocol::preface::Preface;
use crate::telemetry::LOCAL_LOG;
use crate::transport::tls::{self, LocalTrust, TlsError};
use crate::transport::whole::WholeBody;
use crate::values::Name;
use dial::Dialler;
use http1::Http1;
use http2::{Http2, SendError};
use upstream_health::UpstreamHealth;

/// The TLS configurations of each service's applications, prepared at the start, when that can still fail: for HTTP/1.1
/// alone, and for either version.
pub(in crate::agent) type LocalTls = HashMap<Name, [Arc<ClientConfig>; 2]>;

/// Prepares TLS for those of `services` that need it: for HTTP/1.1 alone, and for either version.
///
/// # Errors
/// An authority's file, or the system's roots, cannot be used.
pub(in crate::agent) fn prepare_tls(services: &[Service]) -> Result<LocalTls, TlsError> {
    let is_https = |service: &&Service| {
        service.kind == ServiceKind::Http && service.locals().any(|local| local.scheme() == LocalScheme::Https)
    };
    let prepare = |service: &Service| {
        if service.trust == LocalTrust::Anybody {
            let name = &service.name;
            tracing::warn!(service = %name, "certificates of the local applications of `{name}` are not checked");
        }
        let old = tls::local_client(&service.trust, &[tls::HTTP1])?;
        let either = tls::local_client(&service.trust, &[tls::HTTP2, tls::HTTP1])?;
        Ok((service.name.clone(), [old, either]))
    };
    services.iter().filter(is_https).map(prepare).collect()
}

/// Which versions of HTTP an application speaks.
enum Http {
    One(Http1),
    Two(Box<Http2>),
    /// As the visitor asks: the application may speak both.
    Either(Http1, Box<Http2>),
}

/// One application of a service.
pub(in crate::agent) struct Local {
    pub(in crate::agent) dialler: Dialler,
    http: Http,
    pub(in crate::agent) rewriter: HeadRewriter,
    pub(in crate::agent) url: LocalUrl,
    /// Whether it was named on the command line.
    by_flags: bool,
    health: UpstreamHealth,
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Local({})", self.url.text)
    }
}

impl Local {
    /// Creates the backend for one application of a service. Returns `None` if no request can name its address.
    pub(in crate::agent) fn new(
        service: &Service,
        url: &LocalUrl,
        tls: Option<&[Arc<ClientConfig>; 2]>,
        context: &BackendContext,
    ) -> Option<Self> {
        let dialler = Dialler::new(url, service.proxy_protocol, context.connect_timeout)?;
        let dialler = dialler.with_server_name(service.tls_name());
        let tasks = &context.tasks;
        let keep_alive = service.keep_alive;
        let one =
            |tls: Option<&Arc<ClientConfig>>| Http1::new(dialler.clone(), tls.cloned(), keep_alive, tasks.clone());
        let two = |tls: Option<&Arc<ClientConfig>>| Http2::new(dialler.clone(), tls.cloned(), tasks.clone());
        let http = match (url.scheme(), tls) {
            (LocalScheme::H2c, _) => Http::Two(Box::new(two(None))),
            (LocalScheme::Https, Some([old, either])) => Http::Either(one(Some(old)), Box::new(two(Some(either)))),
            _ => Http::One(one(None)),
        };
        Some(Self {
            http,
            rewriter: HeadRewriter::new(service, url)?,
            dialler,
            url: url.clone(),
            by_flags: service.by_flags,
            health: UpstreamHealth::default(),
        })
    }

    /// Returns whether the application receives the request over HTTP/2, as far as that is known now.
    pub(in crate::agent) fn takes_http2(&self, head: &RequestHead) -> bool {
        match &self.http {
            Http::One(_) => false,
            Http::Two(_) => true,
            Http::Either(..) => {
                head.version == Version::HTTP_2 && head.protocol.is_none() && !head.headers.contains_key(UPGRADE)
            }
        }
    }

    /// Sends the request, which it takes, and waits for the head of the response. Notifies `body_wanted` when the
    /// application asks for the body.
    pub(in crate::agent) async fn send(
        &self,
        request: &mut Request<RequestBody>,
        preface: &Preface,
        body_wanted: Option<&Arc<Notify>>,
    ) -> Result<BackendResponse, BackendError> {
        let on_behalf_of = (preface.visitor, preface.server);
        let http1 = match &self.http {
            Http::One(http1) => http1,
            Http::Either(http1, _) if request.version() != Version::HTTP_2 => http1,
            Http::Two(http2) | Http::Either(_, http2) => {
                match (Box::pin(http2.send(take_request(request), on_behalf_of, body_wanted)).await, &self.http) {
                    (Ok((response, slot)), _) => {
                        let response = response.map(|body| ResponseBody::Hyper(WholeBody::http2(body)));
                        return Ok(BackendResponse { response, unsent: None, slot: Some(slot) });
                    }
                    (Err(SendError::Local(error)), _) => return Err(error),
                    // It was meant for the other version, which the application turned out not to speak.
                    (Err(SendError::NotSpoken(back)), Http::Either(http1, _)) => {
                        *request = *back;
                        http1
                    }
                    (Err(SendError::NotSpoken(_)), _) => return Err(BackendError::broken("it does not speak HTTP/2")),
                }
            }
        };
        let (response, unsent) = http1.send(request, on_behalf_of, body_wanted.map(Arc::as_ref)).await?;
        Ok(BackendResponse { response: response.map(ResponseBody::Http1), unsent, slot: None })
    }

    /// Records that the application has answered, and logs its recovery.
    pub(in crate::agent) fn report_success(&self, name: &Name) {
        if self.health.report_success() {
            tracing::info!(target: LOCAL_LOG, service = %name, "the local application at {} answers again", self.url.shown());
        }
    }

    /// Records that the application has failed, and logs that unless the log has it already.
    pub(in crate::agent) fn report_failure(&self, name: &Name, error: &BackendError) {
        if !error.is_of_this_side() {
            return;
        }
        let words = error.words(&self.url, self.by_flags);
        if self.health.report_failure(&words, Instant::now()) {
            tracing::warn!(target: LOCAL_LOG, service = %name, "{words}");
        }
    }
}
