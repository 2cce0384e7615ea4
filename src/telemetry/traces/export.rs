//! Batches of spans, on their way to the collector.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HOST;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;

use crate::transport::tls;
use crate::transport::tls::LocalTrust;

/// How long one attempt may take: a connection, the batch, the answer.
const ATTEMPT: Duration = Duration::from_secs(5);

/// After what time a batch that the collector does not take is given up.
const GIVE_UP: Duration = Duration::from_secs(10);

/// The most of an answer that is read, in bytes. It is empty, or says in a line what was wrong.
const LONGEST_ANSWER: usize = 64 * 1024;

/// How often a collector that takes nothing is worth a line.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Hands batches to a collector, and says, but not each time, when it takes none.
pub(super) struct Exporter {
    otlp: opentelemetry_otlp::SpanExporter,
    endpoint: String,
    trouble: Arc<Mutex<Trouble>>,
}

#[derive(Default)]
struct Trouble {
    /// What was wrong last.
    why: String,
    /// Spans of which nothing was said yet.
    lost: usize,
    said: Option<Instant>,
}

impl Exporter {
    /// For the collector at `endpoint`, a URL to which `/v1/traces` is added.
    pub(super) fn new(endpoint: &str) -> Result<Self, String> {
        let uri: Uri = format!("{endpoint}/v1/traces").parse().map_err(|_| "the collector's URL is none".to_owned())?;
        let trouble = Arc::new(Mutex::new(Trouble::default()));
        let collector = Collector {
            wire: Arc::new(Wire::new(&uri)?),
            trouble: Arc::clone(&trouble),
            runtime: Handle::current(),
            tasks: TaskTracker::new(),
        };
        let otlp = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(collector)
            .with_endpoint(uri.to_string())
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(GIVE_UP)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { otlp, endpoint: endpoint.to_owned(), trouble })
    }

    fn say(&self, trouble: &mut Trouble) {
        let Trouble { why, lost, said } = trouble;
        tracing::warn!(why, lost = *lost, "the collector of traces at {} does not take spans", self.endpoint);
        (*lost, *said) = (0, Some(Instant::now()));
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").field("endpoint", &self.endpoint).finish()
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        if let Err(error) = self.otlp.export(batch).await {
            let mut trouble = self.trouble.lock();
            trouble.lost += spans;
            if trouble.why.is_empty() {
                trouble.why = error.to_string();
            }
            if trouble.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
                self.say(&mut trouble);
            }
        }
        // Of an error there would be a line each time.
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        let mut trouble = self.trouble.lock();
        if trouble.lost > 0 {
            self.say(&mut trouble);
        }
        self.otlp.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.otlp.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.otlp.set_resource(resource);
    }
}

/// The collector as the exporter asks it. The exporter has a thread without a runtime, so the server's does the work.
struct Collector {
    wire: Arc<Wire>,
    trouble: Arc<Mutex<Trouble>>,
    runtime: Handle,
    tasks: TaskTracker,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").finish_non_exhaustive()
    }
}

impl HttpClient for Collector {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let (wire, tasks) = (Arc::clone(&self.wire), self.tasks.clone());
        let attempt = async move { timeout(ATTEMPT, wire.exchange(request, &tasks)).await };
        let attempt = self.tasks.spawn_on(attempt, &self.runtime);
        Box::pin(async move {
            let answer =
                attempt.await.map_err(HttpError::from).and_then(|ended| ended.map_err(HttpError::from).flatten());
            self.trouble.lock().why = match &answer {
                Ok(answer) => answer.status().to_string(),
                Err(error) => whole(&**error),
            };
            answer
        })
    }
}

/// An error with all of its causes.
fn whole(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// How the collector is reached, and the connection to it while it lasts.
struct Wire {
    uri: Uri,
    host: HeaderValue,
    tcp: HttpConnector,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    kept: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Wire {
    fn new(uri: &Uri) -> Result<Self, String> {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(ATTEMPT));
        tcp.enforce_http(false);
        let (host, authority) = (uri.host().unwrap_or_default(), uri.authority().map_or("", |part| part.as_str()));
        let tls = match uri.scheme() == Some(&Scheme::HTTPS) {
            true => {
                let config =
                    tls::local_client(&LocalTrust::System, &[tls::HTTP1]).map_err(|error| error.to_string())?;
                let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
                Some((TlsConnector::from(config), name))
            }
            false => None,
        };
        let host = HeaderValue::try_from(authority).map_err(|error| error.to_string())?;
        Ok(Self { uri: uri.clone(), host, tcp, tls, kept: Mutex::default() })
    }

    async fn exchange(&self, request: Request<Bytes>, tasks: &TaskTracker) -> Result<Response<Bytes>, HttpError> {
        let mut sender = match self.kept().await {
            Some(kept) => kept,
            None => self.dial(tasks).await?,
        };
        let mut request = request.map(Full::new);
        let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from(path);
        request.headers_mut().insert(HOST, self.host.clone());
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, LONGEST_ANSWER).collect().await?.to_bytes();
        *self.kept.lock() = Some(sender);
        Ok(Response::from_parts(head, body))
    }

    /// The connection of the last batch, if the collector has not closed it.
    async fn kept(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut kept = self.kept.lock().take()?;
        kept.ready().await.is_ok().then_some(kept)
    }

    async fn dial(&self, tasks: &TaskTracker) -> Result<SendRequest<Full<Bytes>>, HttpError> {
        let socket = self.tcp.clone().call(self.uri.clone()).await?.into_inner();
        match &self.tls {
            Some((tls, name)) => greet(Box::pin(tls.connect(name.clone(), socket)).await?, tasks).await,
            None => greet(socket, tasks).await,
        }
    }
}

/// Begins HTTP/1.1. The connection ends when nobody can ask over it any more.
async fn greet(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    tasks: &TaskTracker,
) -> Result<SendRequest<Full<Bytes>>, HttpError> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tasks.spawn(connection);
    Ok(sender)
}

#[cfg(test)]
mod tests;
