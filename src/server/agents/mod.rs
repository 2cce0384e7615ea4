//! Agents: how they connect and log in, what they offer, and when the server closes their tunnels.

pub(crate) mod accept;
pub(crate) mod lane;
pub(crate) mod limits;
pub mod login;
pub(crate) mod revocation;
pub(crate) mod service_changes;
pub(crate) mod start_order;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio_rustls::TlsAcceptor;

use crate::auth::TicketKey;
use crate::limits::LogThrottle;
use crate::server::agents::accept::serve_agent;
use crate::server::agents::limits::LoginLimits;
use crate::server::agents::revocation::Warden;
use crate::server::agents::start_order::Starts;
use crate::server::directory::Directory;
use crate::server::directory::ports::OpenPort;
use crate::server::metrics::Limit;
use crate::server::runtime::{Runtime, Shutdown, until_cut};
use crate::server::settings::Settings;
use crate::tenants::file_store::ClientsOnDisk;
use crate::transport::listen;

/// Refused logins that are logged within a second; in the long run one a second is. More than one, so that an operator who
/// looks for the mistake of one agent finds it among those of others.
const LOGGED_REFUSALS: NonZeroU32 = NonZeroU32::new(16).expect("16 is not zero");

/// What connections of agents share.
#[derive(Debug)]
pub(crate) struct Agents {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) clients_file: Arc<ClientsOnDisk>,
    pub(crate) login: LoginLimits,
    pub(crate) tickets: TicketKey,
    /// The order in which agents were started.
    pub(crate) start_order: Starts,
    pub(crate) revocation: Warden,
    /// Limits the log lines about refused logins.
    pub(crate) login_refused: LogThrottle,
    /// Serves the public ports of services.
    serve_port: ServePort,
    /// Whether several threads run the tasks.
    pub(crate) multi_thread: bool,
}

/// What serves a public port once it is open: the ingress, which this module does not know.
pub(crate) struct ServePort(pub(crate) Box<dyn Fn(&OpenPort, TcpListener) + Send + Sync>);

impl fmt::Debug for ServePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServePort")
    }
}

impl Agents {
    /// Must be called on a tokio runtime.
    pub(crate) fn new(
        runtime: Arc<Runtime>,
        directory: Arc<Directory>,
        login: LoginLimits,
        tickets: TicketKey,
        serve_port: ServePort,
    ) -> Self {
        let clients_file = runtime.settings().config.clients.clone();
        let clients_file = Arc::new(ClientsOnDisk::new(clients_file, Arc::clone(&directory.clients)));
        Self {
            runtime,
            directory,
            clients_file,
            login,
            tickets,
            start_order: Starts::default(),
            revocation: Warden::default(),
            login_refused: LogThrottle::new(LOGGED_REFUSALS),
            serve_port,
            multi_thread: matches!(Handle::current().runtime_flavor(), RuntimeFlavor::MultiThread),
        }
    }

    /// Returns the current settings. Call it once for each connection or login.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.runtime.settings()
    }

    /// Accepts agents until the server stops.
    pub(crate) fn accept(self: Arc<Self>, listener: TcpListener, tls: TlsAcceptor) -> impl Future<Output = ()> {
        let Shutdown { stop, cut, .. } = &self.runtime.shutdown;
        let (stop, cut) = (stop.clone(), cut.clone());
        listen::accept_loop(listener, stop, move |socket, peer| {
            // Beyond the limits the connection is closed without an answer: a handshake costs more than a connection.
            let Some(permit) = self.login.permit(peer.ip()) else {
                return self.runtime.metrics.limited(Limit::LoginsUnderWay);
            };
            let serve = serve_agent(Arc::clone(&self), tls.clone(), socket, peer, permit);
            self.runtime.tasks.all.spawn(until_cut(cut.clone(), serve));
        })
    }

    /// Serves a public port that was just opened.
    pub(crate) fn serve_port(&self, port: &OpenPort, listener: TcpListener) {
        (self.serve_port.0)(port, listener);
    }
}
