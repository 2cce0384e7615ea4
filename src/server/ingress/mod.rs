//! Visitors' requests and connections, from the socket to the end of each exchange.
//!
//! | module | what it does |
//! | --- | --- |
//! | `entry` | admits connections, detects the protocol, serves HTTP/1, HTTP/2 and raw connections |
//! | `connection` | what the requests of one connection share |
//! | `pipeline` | one request: limits, routing, access rules |
//! | `upstream` | which service and tunnel a request goes to, and failover |
//! | `forward` | carries a request through a tunnel and its response back |
//! | `observe` | the single exit: each exchange is counted, logged and traced there, once |
//! | `error_page` | failures, and the pages that the server itself sends |
//! | `headers` | the header fields that a proxy must rewrite |
//! | `rate_limits` | applies the rates of visitors, services and clients |
//! | `visitor_limits` | the state of these and other limits of visitors |

pub(crate) mod connection;
pub(crate) mod entry;
pub(crate) mod error_page;
pub(crate) mod forward;
pub(crate) mod headers;
pub(crate) mod observe;
pub(crate) mod patience;
pub(crate) mod pipeline;
pub(crate) mod rate_limits;
mod refusal_log;
pub(crate) mod upstream;
pub(crate) mod visitor_limits;

use std::sync::Arc;

use tokio::net::TcpListener;

use crate::limits::LogThrottle;
use crate::server::directory::Directory;
use crate::server::directory::ports::{OpenPort, PortServer};
use crate::server::ingress::entry::accept;
use crate::server::ingress::observe::Observers;
use crate::server::ingress::observe::proxy_hint::ProxyHint;
use crate::server::ingress::upstream::agents_return::AgentsReturn;
use crate::server::ingress::visitor_limits::VisitorLimits;
use crate::server::runtime::{Runtime, until_cut};
use crate::server::settings::Settings;
use crate::telemetry::Traces;
use crate::transport::listen;

/// What visitors' connections share.
#[derive(Debug)]
pub(crate) struct Ingress {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) directory: Arc<Directory>,
    /// TLS of the HTTPS listener, if there is one.
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    pub(crate) limits: VisitorLimits,
    /// What is told of each exchange.
    pub(crate) observers: Arc<Observers>,
    pub(crate) traces: Traces,
    /// Notices that `public.trusted_proxies` seems to be missing.
    pub(crate) proxy_hint: ProxyHint,
    /// Which requests wait for agents after the start.
    pub(crate) agents_return: AgentsReturn,
    /// Limits the log lines about connections that were closed because of `limits.connections`.
    pub(crate) connection_closed: LogThrottle,
}

/// The listener on which a visitor arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entrypoint {
    /// `public.http`
    Http,
    /// `public.https`
    Https,
}

impl Ingress {
    /// Returns the current settings. Call it once for each connection or request.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.runtime.settings()
    }

    /// Accepts visitors until the server stops.
    pub(crate) fn accept(self: Arc<Self>, listener: TcpListener, entrypoint: Entrypoint) -> impl Future<Output = ()> {
        let stop = self.runtime.shutdown.stop.clone();
        listen::accept_loop(listener, stop, move |socket, peer| accept::accept_http(&self, socket, peer, entrypoint))
    }

    /// Runs `task`, which belongs to a visitor's connection, until the server has drained or cuts it.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let Runtime { tasks, shutdown, .. } = &*self.runtime;
        tasks.visitors.spawn(until_cut(shutdown.cut.clone(), task));
    }
}

/// Serves the public ports of `tcp` services.
#[derive(Debug)]
pub(crate) struct PublicPorts(pub(crate) Arc<Ingress>);

impl PortServer for PublicPorts {
    fn serve_port(&self, port: &OpenPort, listener: TcpListener) {
        let (ingress, name) = (Arc::clone(&self.0), port.name.clone());
        let accept = listen::accept_loop(listener, port.closed(), move |socket, peer| {
            accept::accept_raw(&ingress, socket, peer, &name);
        });
        let runtime = &self.0.runtime;
        runtime.tasks.all.spawn(until_cut(runtime.shutdown.stop.clone(), accept));
    }
}
