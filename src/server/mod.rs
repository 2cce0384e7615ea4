//! The public side: accepts agents and visitors and connects them. The operator has a port of its own (`admin`).
//!
//! [`Server::bind`] opens the listeners and creates the components, [`Server::run`] serves until it is told to stop and then
//! drains. Each component is a submodule that owns its fields: [`agents`] (connections of agents), [`ingress`] (visitors),
//! [`directory`] (where a name is served) and [`lifecycle`] (reload, drain, certificates).

mod admin;
pub mod agents;
pub mod directory;
pub mod domain_verification;
pub(crate) mod http_connection;
pub mod ingress;
pub mod lifecycle;
mod metrics;
pub mod options;
pub(crate) mod runtime;
pub(crate) mod settings;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};

use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{AdminToken, AdminTokenError, TicketKey, TicketKeyError};
use crate::certs::CertError;
use crate::limits::{FailedLogins, HeldHeads, LogThrottle, REMEMBERED_ADDRESSES, SharedBudget};
use crate::link::carriers::mux::Unread;
use crate::server::admin::Admin;
use crate::server::agents::Agents;
use crate::server::agents::login_limits::LoginLimits;
use crate::server::directory::registry::Registry;
use crate::server::directory::{Directory, PublicListeners};
use crate::server::domain_verification::ResolverError;
use crate::server::ingress::observe::Observers;
use crate::server::ingress::observe::proxy_hint::ProxyHint;
use crate::server::ingress::upstream::agents_return::AgentsReturn;
use crate::server::ingress::visitor_limits::VisitorLimits;
use crate::server::ingress::{Entrypoint, Ingress, PublicPorts};
use crate::server::lifecycle::Lifecycle;
use crate::server::lifecycle::certificate::{Certificates, Origin, ServerCertificate, Sources};
use crate::server::lifecycle::check::TICKET_KEY;
pub use crate::server::lifecycle::check::{check, creates_clients_file};
pub use crate::server::lifecycle::drain::Drained;
use crate::server::lifecycle::fd_budget::FdBudget;
pub use crate::server::lifecycle::fd_budget::connections_within;
use crate::server::lifecycle::reload::Reloader;
use crate::server::options::ServerOptions;
use crate::server::runtime::Runtime;
use crate::server::settings::Settings;
use crate::telemetry::{LogLevel, LogState, Traces};
use crate::tenants::clients::Clients;
use crate::tenants::file_store::FileStore;
use crate::tenants::store::ClientStore;
use crate::transport::inherited::Inherited;
use crate::transport::listen::{self, ListenError};
use crate::transport::tls::{self, TlsError};
use crate::values::Fingerprint;

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken or forbidden.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The certificate cannot be made or read.
    #[error(transparent)]
    Certificate(#[from] CertError),
    /// TLS refuses the certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The key that signs tickets cannot be made or read.
    #[error(transparent)]
    TicketKey(#[from] TicketKeyError),
    /// The token of the operator's tools cannot be made or read.
    #[error(transparent)]
    AdminToken(#[from] AdminTokenError),
    /// Domains are to be proved by DNS, and there is no DNS.
    #[error("domains cannot be proved by DNS: {0}")]
    DomainVerification(#[from] ResolverError),
    /// Spans are to be exported, and cannot be.
    #[error("traces cannot be exported: {0}")]
    Traces(String),
    /// The system has no randomness, or a socket has no address.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// A server whose listeners are open. It serves once it runs.
#[must_use = "a bound server serves nothing until it runs"]
pub struct Server {
    lifecycle: Arc<Lifecycle>,
    listeners: Listeners,
    /// TLS of the tunnel port.
    agent_tls: TlsAcceptor,
    /// The token of the admin port, if there is one.
    admin_token: Option<AdminToken>,
    certificate: ServerCertificate,
    log: Option<LogLevel>,
}

/// The open listeners.
struct Listeners {
    tunnel: TcpListener,
    http: TcpListener,
    https: Option<TcpListener>,
    admin: Option<TcpListener>,
    /// Whether visitors could connect before this server ran.
    is_inherited: bool,
}

impl Listeners {
    /// Opens all listeners; those that the service manager has opened already are taken from `inherited`.
    fn open(config: &ServerOptions, inherited: &mut Inherited) -> Result<Self, StartError> {
        let there = inherited.left().len();
        let http = inherited.take_or_bind(config.public.http, "public.http")?;
        let mut listen = |address, key| inherited.take_or_bind(address, key);
        let https = config.public.https.map(|address| listen(address, "public.https")).transpose()?;
        let is_inherited = inherited.left().len() < there;
        let mut listen = |address, key| inherited.take_or_bind(address, key);
        Ok(Self {
            tunnel: listen(config.tunnel.listen, "tunnel.listen")?,
            http,
            https,
            is_inherited,
            admin: config.admin.listen.map(|address| listen(address, "admin.listen")).transpose()?,
        })
    }

    /// Returns the ports on which visitors connect.
    fn public(&self) -> io::Result<PublicListeners> {
        let https = self.https.as_ref().map(TcpListener::local_addr).transpose()?;
        Ok(PublicListeners { http: self.http.local_addr()?.port(), https: https.map(|address| address.port()) })
    }
}

/// Creates the components, lowest first; each knows only those below it.
fn components(
    config: ServerOptions,
    client_store: Arc<dyn ClientStore>,
    certificates: Certificates,
    tickets: TicketKey,
    listeners: &Listeners,
) -> Result<Lifecycle, StartError> {
    let (limits, budget) = (config.limits.clone(), FdBudget::of(&config.limits));
    let directory = Arc::new(Directory::new(&config, Arc::clone(client_store.clients()), listeners.public()?));
    let traces = Traces::start(&config.traces).map_err(StartError::Traces)?;
    let public_tls = certificates.https().filter(|_| listeners.https.is_some()).map(tls::public_server).transpose()?;
    let runtime = Arc::new(Runtime::new(Settings::new(config, None)?)?);
    let ingress = Arc::new(Ingress {
        runtime: Arc::clone(&runtime),
        directory: Arc::clone(&directory),
        tls: public_tls,
        limits: VisitorLimits::new(&limits, budget.connections, &tickets)?,
        observers: Arc::new(Observers::new(Arc::clone(&runtime.metrics))),
        traces,
        proxy_hint: ProxyHint::default(),
        agents_return: AgentsReturn::new(listeners.is_inherited, limits.per_ip.ipv6_prefix),
        connection_closed: LogThrottle::new(NonZeroU32::MIN),
    });
    let port_server = Arc::new(PublicPorts(Arc::clone(&ingress)));
    let login = LoginLimits::new(&limits.per_ip, budget.logins)?;
    let agents =
        Arc::new(Agents::new(Arc::clone(&runtime), Arc::clone(&directory), client_store, login, tickets, port_server));
    let per_ip = &limits.per_ip;
    Ok(Lifecycle {
        runtime,
        directory,
        ingress,
        agents,
        certificates,
        reloading: tokio::sync::Mutex::default(),
        refused_reload: parking_lot::Mutex::default(),
        wrong_admin_tokens: FailedLogins::new(per_ip.logins_per_minute, per_ip.ipv6_prefix, REMEMBERED_ADDRESSES),
        log: OnceLock::new(),
    })
}

impl Server {
    /// Opens the listeners and prepares everything that can fail, so that running cannot.
    ///
    /// Must be called on a tokio runtime.
    ///
    /// # Errors
    /// A port, the certificate or the ticket key cannot be had; the message says what to do.
    pub fn bind(config: ServerOptions, clients: Clients) -> Result<Self, StartError> {
        let store = FileStore::new(config.clients.clone(), Arc::new(clients));
        Self::bind_with(config, Arc::new(store), &mut Inherited::default())
    }

    /// Like [`Server::bind`], with any store of clients, and with the listeners in `inherited` that the service manager
    /// has opened already.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub fn bind_with(
        config: ServerOptions,
        client_store: Arc<dyn ClientStore>,
        inherited: &mut Inherited,
    ) -> Result<Self, StartError> {
        let listeners = Listeners::open(&config, inherited)?;
        let (certificates, certificate) = Certificates::load(Sources::configured(&config))?;
        let agent_tls = TlsAcceptor::from(tls::tunnel_server(certificates.tunnel())?);
        let tickets = TicketKey::load_or_create(&config.tunnel.tls.dir.join(TICKET_KEY))?;
        let admin_token =
            listeners.admin.as_ref().map(|_| AdminToken::load_or_create(&config.admin.token_file)).transpose()?;
        let lifecycle = Arc::new(components(config, client_store, certificates, tickets, &listeners)?);
        Ok(Self { lifecycle, listeners, agent_tls, admin_token, certificate, log: None })
    }

    /// Lets the operator's tools change what is logged, and see how the log is.
    pub fn with_log(self, level: LogLevel, state: LogState) -> Self {
        // A second log would be the first one once more.
        let _ = self.lifecycle.log.set(state);
        Self { log: Some(level), ..self }
    }

    /// Where agents dial.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn tunnel_address(&self) -> io::Result<SocketAddr> {
        self.listeners.tunnel.local_addr()
    }

    /// Where visitors connect.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn public_address(&self) -> io::Result<SocketAddr> {
        self.listeners.http.local_addr()
    }

    /// Where visitors connect over TLS, if they can.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn https_address(&self) -> io::Result<Option<SocketAddr>> {
        self.listeners.https.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// Where the operator's tools connect, if they can.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn admin_address(&self) -> io::Result<Option<SocketAddr>> {
        self.listeners.admin.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// By what agents can pin this server.
    pub fn fingerprint(&self) -> Fingerprint {
        self.certificate.fingerprint
    }

    /// The certificate that agents see.
    pub fn certificate(&self) -> &ServerCertificate {
        &self.certificate
    }

    /// By what another configuration is taken over while the server runs.
    pub fn reloader(&self) -> Reloader {
        Reloader::new(Arc::clone(&self.lifecycle), self.log.clone())
    }

    /// Who is connected.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.lifecycle.directory.registry)
    }

    /// Returns the list of clients in force. It can be replaced while the server runs.
    pub fn clients(&self) -> Arc<Clients> {
        Arc::clone(&self.lifecycle.directory.clients)
    }

    /// What has come from agents and waits for visitors.
    pub fn unread(&self) -> Arc<Unread> {
        Arc::clone(&self.lifecycle.directory.unread)
    }

    /// The memory in use for large heads of waiting requests.
    pub fn held_heads(&self) -> HeldHeads {
        self.lifecycle.ingress.limits.held_heads.clone()
    }

    /// What is held of requests until it is known whether they may go on.
    pub fn held_bodies(&self) -> SharedBudget {
        self.lifecycle.ingress.limits.held_bodies.clone()
    }

    /// The open exchanges: how many there are, and when the last one has ended.
    pub fn exchanges(&self) -> TaskTracker {
        self.lifecycle.runtime.tasks.exchanges.clone()
    }

    /// Serves until `stop`, then drains: no new visitors and agents, open requests end within the drain timeout, the
    /// rest is cut.
    pub async fn run(self, stop: CancellationToken) -> Drained {
        let Self { lifecycle, listeners, agent_tls, admin_token, certificate, log } = self;
        let Lifecycle { runtime, directory, agents, certificates, .. } = &*lifecycle;
        let (tasks, stopping) = (&runtime.tasks.all, &runtime.shutdown.stop);
        tasks.spawn(Arc::clone(agents).accept(listeners.tunnel, agent_tls));
        tasks.spawn(Arc::clone(&lifecycle.ingress).accept(listeners.http, Entrypoint::Http));
        if let Some(listener) = listeners.https {
            tasks.spawn(Arc::clone(&lifecycle.ingress).accept(listener, Entrypoint::Https));
        }
        let admin_stop = CancellationToken::new();
        let admin = listeners.admin.zip(admin_token).map(|(listener, token)| {
            let pin = (certificate.origin != Origin::Operator).then_some(certificate.fingerprint);
            let admin = Admin::new(&lifecycle, token, pin, log);
            tasks.spawn(listen::accept_loop(listener, admin_stop.clone(), admin.acceptor()))
        });
        tasks.spawn(Arc::clone(&lifecycle).evict_idle_addresses());
        tasks.spawn(Arc::clone(agents).enforce_clients_file());
        tasks.spawn(Arc::clone(&directory.registry).release_reservations(stopping.clone()));
        tasks.spawn(certificates.clone().maintain(stopping.clone()));
        tasks.spawn(Arc::clone(&agents.client_store).watch(stopping.clone()));
        stop.cancelled().await;
        // A successor takes the admin port first, and needs it before this server has drained. Open connections to it stay
        // until then.
        admin_stop.cancel();
        if let Some(admin) = admin {
            // The task ends as soon as it runs.
            let _ = admin.await;
        }
        lifecycle.drain().await
    }
}
