//! HTTP/1.1 to a local application: connections that are kept and used again, or one for each visitor.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use super::dial::{Dialler, OnBehalfOf, Patient};
use super::{LocalError, RequestBody, Tracked};
use crate::protocol::exchange::MAX_FIELDS;

/// Idle connections kept for each local address: as many as requests may run at once. With fewer, each wave of
/// visitors beyond that number pays for new connections (at 256 visitors a request then cost a third more).
const IDLE_CONNECTIONS: usize = 1024;

/// How long an idle connection is kept. Node.js, uvicorn and Apache close theirs after 5 s: a request that is sent at that
/// moment would be lost.
const IDLE_TIME: Duration = Duration::from_secs(4);

/// Connects for the pool, which asks for nobody in particular.
#[derive(Clone)]
struct Connector {
    dialler: Dialler,
    tls: Option<Arc<ClientConfig>>,
}

impl Connector {
    async fn connect(self, on_behalf_of: Option<OnBehalfOf>) -> io::Result<TokioIo<Patient>> {
        let stream = match &self.tls {
            Some(tls) => self.dialler.dial_tls(on_behalf_of, tls).await?,
            None => self.dialler.dial(on_behalf_of).await?,
        };
        Ok(Patient::new(stream))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Patient>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Patient>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The URI is the same for all requests of a service.
    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect(None))
    }
}

impl Connection for Patient {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// The connections of one service. A request on a kept one that turns out to be closed is sent again on another one, if
/// nothing of it had been sent.
pub(super) struct Http1 {
    connector: Connector,
    pool: Client<Connector, RequestBody>,
    tasks: TaskTracker,
}

impl Http1 {
    /// Connections' tasks run on `tasks`.
    pub(super) fn new(dialler: Dialler, tls: Option<Arc<ClientConfig>>, tasks: TaskTracker) -> Self {
        let connector = Connector { dialler, tls };
        let pool = Client::builder(Tracked(tasks.clone()))
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .http1_max_headers(MAX_FIELDS)
            .set_host(false)
            .build(connector.clone());
        Self { connector, pool, tasks }
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(
        &self,
        request: Request<RequestBody>,
        on_behalf_of: OnBehalfOf,
    ) -> Result<Response<Incoming>, LocalError> {
        if self.connector.dialler.tells_the_visitor() {
            return Box::pin(self.send_alone(request, on_behalf_of)).await;
        }
        Ok(self.pool.request(request).await?)
    }

    /// Sends a request on a connection of its own: what was said ahead of it is true for this visitor only.
    async fn send_alone(
        &self,
        mut request: Request<RequestBody>,
        on_behalf_of: OnBehalfOf,
    ) -> Result<Response<Incoming>, LocalError> {
        let io = self.connector.clone().connect(Some(on_behalf_of)).await.map_err(|error| LocalError::dial(&error))?;
        let (mut sender, connection) = http1::Builder::new().max_headers(MAX_FIELDS).handshake(io).await?;
        self.tasks.spawn(connection.with_upgrades());
        // On a connection, a request names no more than its path (RFC 9112, section 3.2.1).
        let target = request.uri().path_and_query().cloned().map(Uri::from).unwrap_or_default();
        *request.uri_mut() = target;
        Ok(sender.send_request(request).await?)
    }
}
