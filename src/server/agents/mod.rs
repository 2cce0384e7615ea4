//! Agents: how they connect and log in, how they change their services, and when the server closes their tunnels.

pub(crate) mod accept;
pub(crate) mod admission;
pub(crate) mod lane;
pub mod login;
pub(crate) mod login_limits;
pub(crate) mod requested_changes;
pub(crate) mod revocation;
pub(crate) mod start_order;

use std::num::NonZeroU32;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio_rustls::TlsAcceptor;

use crate::auth::TicketKey;
use crate::limits::LogThrottle;
use crate::server::agents::accept::serve_agent;
use crate::server::agents::admission::LoginAdmission;
use crate::server::agents::login_limits::LoginLimits;
use crate::server::agents::revocation::DelayedRevocations;
use crate::server::agents::start_order::StartOrder;
use crate::server::directory::Directory;
use crate::server::directory::ports::PortServer;
use crate::server::metrics::Limit;
use crate::server::runtime::{Runtime, Shutdown, until_cut};
use crate::server::settings::Settings;
use crate::tenants::store::ClientStore;
use crate::transport::listen;

/// Refused logins that are logged within a second; in the long run one a second is. More than one, so that an operator who
/// looks for the mistake of one agent finds it among those of others.
const LOGGED_REFUSALS: NonZeroU32 = NonZeroU32::new(16).expect("16 is not zero");

/// What connections of agents share.
#[derive(Debug)]
pub(crate) struct Agents {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) client_store: Arc<dyn ClientStore>,
    pub(crate) login: LoginLimits,
    pub(crate) tickets: TicketKey,
    /// The order in which agents were started.
    pub(crate) start_order: StartOrder,
    pub(crate) revocation: DelayedRevocations,
    /// Limits the log lines about refused logins.
    pub(crate) login_refused: LogThrottle,
    /// Serves the public ports of services.
    port_server: Arc<dyn PortServer>,
    /// Whether several threads run the tasks.
    pub(crate) multi_thread: bool,
}

impl Agents {
    /// Must be called on a tokio runtime.
    pub(crate) fn new(
        runtime: Arc<Runtime>,
        directory: Arc<Directory>,
        client_store: Arc<dyn ClientStore>,
        login: LoginLimits,
        tickets: TicketKey,
        port_server: Arc<dyn PortServer>,
    ) -> Self {
        Self {
            runtime,
            directory,
            client_store,
            login,
            tickets,
            start_order: StartOrder::default(),
            revocation: DelayedRevocations::default(),
            login_refused: LogThrottle::new(LOGGED_REFUSALS),
            port_server,
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
            let Some(admission) = LoginAdmission::new(&self, peer) else {
                return self.runtime.metrics.limited(Limit::LoginsUnderWay);
            };
            let serve = serve_agent(Arc::clone(&self), tls.clone(), socket, admission);
            self.runtime.tasks.all.spawn(until_cut(cut.clone(), serve));
        })
    }
}
