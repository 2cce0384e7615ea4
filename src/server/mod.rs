//! The public side: takes agents in on one port and visitors on another, and brings them together. The operator has a
//! port of its own (`admin`).
//!
//! [`Server::bind`] opens the listeners, [`Server::run`] serves until it is told to stop and then drains.
//! An agent's connection goes through [`accept`], [`login`], [`registry`] and [`lane`]; a visitor's request through
//! [`public`]. [`reload`] takes over another configuration while all of that goes on.

mod admin;
pub mod agents;
pub mod directory;
pub mod ingress;
pub mod lifecycle;
mod metrics;
pub mod options;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::PasswordGate;
use crate::auth::{AdminToken, AdminTokenError, TicketKey, TicketKeyError, TokenVerifier, USUAL_COST};
use crate::certs::CertError;
use crate::limits::{
    AddressPermit, Checks, FailedLogins, HeldHeads, PerAddress, Permit, Permits, Seldom, SharedBudget, VisitorRate,
};
use crate::link::mux::Unread;
use crate::server::agents::login::RefusedTokens;
use crate::server::agents::revocation::Warden;
use crate::server::agents::start_order::Starts;
use crate::server::directory::client_usage::Usages;
use crate::server::directory::ports::{OpenPort, Ports};
use crate::server::directory::registry::Registry;
use crate::server::ingress::Door;
use crate::server::ingress::observe::live_requests::LiveRequests;
use crate::server::lifecycle::certificate::{Certificates, Origin, ServerCertificate};
pub use crate::server::lifecycle::check::{check, creates_clients_file};
pub use crate::server::lifecycle::drain::Drained;
use crate::server::lifecycle::drain::{boxed_until_cut, until_cut};
use crate::server::lifecycle::fd_budget::Room;
pub use crate::server::lifecycle::fd_budget::connections_within;
use crate::server::lifecycle::reload::{NotReloaded, Reloader};
use crate::server::lifecycle::settings::Settings;
use crate::server::options::ServerOptions;
use crate::telemetry::{LogLevel, LogState, Traces};
use crate::tenants::clients::Clients;
use crate::tenants::file_store::ClientsOnDisk;
use crate::transport::inherited::Inherited;
use crate::transport::listen::{self, ListenError};
use crate::transport::tls::{self, TlsError};
use crate::values::Fingerprint;
use admin::Admin;
use metrics::{Limit, Metrics};

/// Password hashes computed at once. Each takes about 19 MiB.
const LOGIN_CHECKS: usize = 2;

/// How many logins by token an address may have checked for each one that may fail: a fleet behind one address comes back at
/// once, and nobody keeps the processor busy with a token that is right. [`FIRST_FAILURES`] are on top of that.
const LOGIN_CHECKS_FOR_A_FAILURE: u32 = 10;

/// Agents' connections that may be on their way through TLS and login at once.
const LOGINS_UNDER_WAY: usize = 1024;

/// How many of these one address may have, so that a stranger who says nothing leaves room for others. A fleet behind
/// one address that comes back all at once is let in within a few attempts: a login takes milliseconds.
const LOGINS_OF_AN_ADDRESS: NonZeroU32 = NonZeroU32::new(32).expect("32 is not zero");

/// The part of the places that are left which one address may have, and how many it may have in any case.
const LOGIN_SHARE: NonZeroUsize = NonZeroUsize::new(32).expect("32 is not zero");
const LEAST_LOGINS: usize = 2;

/// Refused logins that have a line of their own within a second; in the long run one a second has. More than one, because an
/// operator who looks for the mistake of one agent must find it among those of others.
const REFUSALS_AT_ONCE: NonZeroU32 = NonZeroU32::new(16).expect("16 is not zero");

/// How many clients' first wrong tokens are checked for an address beyond its limit. Refilled at the rate of the limit.
const FIRST_FAILURES: NonZeroU32 = NonZeroU32::new(128).expect("128 is not zero");

/// Addresses that the rate limits remember one by one; strangers beyond that share one allowance.
const REMEMBERED_ADDRESSES: usize = 100_000;

/// How often the rate limits forget addresses that have been quiet.
const EVICTION: Duration = Duration::from_secs(60);

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
    Proofs(String),
    /// Spans are to be exported, and cannot be.
    #[error("traces cannot be exported: {0}")]
    Traces(String),
    /// The system has no randomness, or a socket has no address.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// Lines of the log that strangers can cause as often as they like.
#[derive(Debug)]
struct Said {
    /// A connection was closed because of `limits.connections`.
    connection_closed: Seldom,
    /// A login was refused.
    login_refused: Seldom,
}

impl Default for Said {
    fn default() -> Self {
        Self { connection_closed: Seldom::new(NonZeroU32::MIN), login_refused: Seldom::new(REFUSALS_AT_ONCE) }
    }
}

/// What all connections of a server share.
#[derive(Debug)]
pub struct Shared {
    settings: ArcSwap<Settings>,
    /// Held by whoever exchanges them.
    reloading: tokio::sync::Mutex<()>,
    /// Why the latest reload was refused, if it was.
    refused_reload: parking_lot::Mutex<Option<NotReloaded>>,
    public_port: u16,
    https: Option<Https>,
    ports: Ports,
    node_id: String,
    clients: Arc<Clients>,
    clients_file: Arc<ClientsOnDisk>,
    warden: Warden,
    usages: Usages,
    registry: Arc<Registry>,
    /// The order in which agents were started.
    starts: Starts,
    verifier: TokenVerifier,
    tickets: TicketKey,
    visitors: VisitorRate,
    visitor_connections: PerAddress,
    connections: Permits,
    failed_logins: FailedLogins,
    /// Logins that cost an argon2 computation, failed or not.
    login_checks: Checks,
    /// Failures of addresses beyond their limit, each the first one for a client from that address.
    first_failures: FailedLogins,
    refused_tokens: RefusedTokens,
    /// At the admin port.
    wrong_admin_tokens: FailedLogins,
    /// Compares visitors' passwords.
    passwords: PasswordGate,
    /// The memory for heads of waiting requests.
    held_heads: HeldHeads,
    /// Bodies of requests that wait for their signature to be checked.
    held_bodies: SharedBudget,
    /// What has come from agents and waits for visitors.
    unread: Arc<Unread>,
    streams: Permits,
    /// What visitors have open.
    live: Arc<LiveRequests>,
    metrics: Metrics,
    traces: Traces,
    /// How the log is, if this server is the one that the process has it for.
    log: OnceLock<LogState>,
    /// Lines of it that strangers can cause.
    said: Said,
    /// What the listeners show.
    certificates: Certificates,
    logins: Permits,
    logins_by_address: PerAddress,
    /// Every task of this server.
    tasks: TaskTracker,
    /// Visitors' connections, which end before the lanes do.
    visits: TaskTracker,
    /// Open exchanges: counts them only, their tasks are among the others.
    exchanges: TaskTracker,
    /// No new visitors, no new agents.
    stop: CancellationToken,
    /// The visitors have left, or their time is over: nobody watches any more.
    drained: CancellationToken,
    /// The time to drain is over.
    cut: CancellationToken,
    /// Whether several threads run the tasks.
    multi_thread: bool,
}

/// What the HTTPS listener needs.
#[derive(Debug)]
struct Https {
    port: u16,
    config: Arc<rustls::ServerConfig>,
}

/// A server whose listeners are open. It serves once it runs.
#[must_use = "a bound server serves nothing until it runs"]
pub struct Server {
    shared: Arc<Shared>,
    tunnel: TcpListener,
    public: TcpListener,
    https: Option<TcpListener>,
    admin: Option<(TcpListener, AdminToken)>,
    tls: TlsAcceptor,
    certificate: ServerCertificate,
    log: Option<LogLevel>,
}

impl Server {
    /// Opens the listeners and prepares everything that can fail, so that running cannot.
    ///
    /// Must be called on a tokio runtime.
    ///
    /// # Errors
    /// A port, the certificate or the ticket key cannot be had; the message says what to do.
    pub fn bind(config: ServerOptions, clients: Clients) -> Result<Self, StartError> {
        Self::bind_with(config, clients, &mut Inherited::default())
    }

    /// As [`Server::bind`]; listeners that the service manager has opened already are taken from `inherited`.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub fn bind_with(config: ServerOptions, clients: Clients, inherited: &mut Inherited) -> Result<Self, StartError> {
        let mut listen = |address, key| inherited.take_or_bind(address, key);
        let tunnel = listen(config.tunnel.listen, "tunnel.listen")?;
        let public = listen(config.public.http, "public.http")?;
        let https = config.public.https.map(|address| listen(address, "public.https")).transpose()?;
        let admin = config.admin.listen.map(|address| listen(address, "admin.listen")).transpose()?;
        let (certificates, certificate) = Certificates::load(&config)?;
        let tls = tls::tunnel_server(certificates.tunnel())?;
        let tickets =
            TicketKey::load_or_create(&config.tunnel.tls.dir.join(crate::server::lifecycle::check::TICKET_KEY))?;
        let with_token = |listener| Ok((listener, AdminToken::load_or_create(&config.admin.token_file)?));
        let admin = admin.map(with_token).transpose().map_err(StartError::AdminToken)?;
        let public_tls = match (&https, certificates.https()) {
            (Some(listener), Some(certificates)) => {
                let config = tls::public_server(certificates)?;
                Some(Https { port: listener.local_addr()?.port(), config })
            }
            _ => None,
        };
        let node_id = getrandom::u64().map_err(io::Error::other)?;
        let per_ip = &config.limits.per_ip;
        let multi_thread =
            matches!(tokio::runtime::Handle::current().runtime_flavor(), tokio::runtime::RuntimeFlavor::MultiThread);
        let (prefix, room) = (per_ip.ipv6_prefix, Room::of(&config.limits));
        let exchanges = TaskTracker::new();
        // Nothing is spawned on it: closed, it tells when it is empty.
        exchanges.close();
        let clients = Arc::new(clients);
        let shared = Shared {
            clients_file: Arc::new(ClientsOnDisk::new(config.clients.clone(), Arc::clone(&clients))),
            warden: Warden::default(),
            usages: Usages::default(),
            clients,
            public_port: public.local_addr()?.port(),
            https: public_tls,
            ports: Ports::new(config.public.http.ip()),
            node_id: format!("{node_id:016x}"),
            registry: Registry::new(config.tunnel.max_tunnels),
            starts: Starts::default(),
            verifier: TokenVerifier::new(LOGIN_CHECKS, LOGIN_CHECKS),
            tickets,
            visitors: VisitorRate::new(per_ip.requests_per_second, per_ip.burst, prefix, REMEMBERED_ADDRESSES),
            connections: Permits::new(room.connections),
            visitor_connections: PerAddress::new(per_ip.connections, prefix),
            failed_logins: FailedLogins::new(per_ip.logins_per_minute, prefix, REMEMBERED_ADDRESSES),
            login_checks: Checks::new(login_checks(per_ip.logins_per_minute), prefix, REMEMBERED_ADDRESSES),
            first_failures: FailedLogins::with_burst(
                per_ip.logins_per_minute,
                FIRST_FAILURES,
                prefix,
                REMEMBERED_ADDRESSES,
            ),
            refused_tokens: RefusedTokens::new().map_err(io::Error::other)?,
            wrong_admin_tokens: FailedLogins::new(per_ip.logins_per_minute, prefix, REMEMBERED_ADDRESSES),
            passwords: PasswordGate::new(per_ip.logins_per_minute, prefix, REMEMBERED_ADDRESSES)
                .map_err(io::Error::other)?,
            held_heads: HeldHeads::new(config.limits.held_heads),
            held_bodies: SharedBudget::new(config.limits.held_bodies),
            unread: Unread::new(config.limits.unread_answers),
            streams: Permits::new(config.limits.streams),
            live: Arc::default(),
            metrics: Metrics::default(),
            traces: Traces::start(&config.traces).map_err(StartError::Traces)?,
            log: OnceLock::new(),
            said: Said::default(),
            certificates,
            logins: Permits::new(room.logins),
            logins_by_address: PerAddress::new(LOGINS_OF_AN_ADDRESS, prefix),
            tasks: TaskTracker::new(),
            visits: TaskTracker::new(),
            exchanges,
            stop: CancellationToken::new(),
            drained: CancellationToken::new(),
            cut: CancellationToken::new(),
            multi_thread,
            reloading: tokio::sync::Mutex::default(),
            refused_reload: parking_lot::Mutex::default(),
            settings: ArcSwap::from_pointee(Settings::new(config, None).map_err(StartError::Proofs)?),
        };
        Ok(Self {
            shared: Arc::new(shared),
            tunnel,
            public,
            https,
            admin,
            tls: TlsAcceptor::from(tls),
            certificate,
            log: None,
        })
    }

    /// Lets the operator's tools change what is logged, and see how the log is.
    pub fn with_log(self, level: LogLevel, state: LogState) -> Self {
        // A second log would be the first one once more.
        let _ = self.shared.log.set(state);
        Self { log: Some(level), ..self }
    }

    /// Where agents dial.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn tunnel_address(&self) -> io::Result<SocketAddr> {
        self.tunnel.local_addr()
    }

    /// Where visitors connect.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn public_address(&self) -> io::Result<SocketAddr> {
        self.public.local_addr()
    }

    /// Where visitors connect over TLS, if they can.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn https_address(&self) -> io::Result<Option<SocketAddr>> {
        self.https.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// Where the operator's tools connect, if they can.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn admin_address(&self) -> io::Result<Option<SocketAddr>> {
        self.admin.as_ref().map(|(listener, _)| listener.local_addr()).transpose()
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
        Reloader::new(Arc::clone(&self.shared), self.log.clone())
    }

    /// Who is connected.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.shared.registry)
    }

    /// Who may log in. The list can be exchanged while the server runs.
    pub fn clients(&self) -> Arc<Clients> {
        Arc::clone(&self.shared.clients)
    }

    /// The file of those who may log in. It is read again whenever it changes.
    pub fn clients_file(&self) -> Arc<ClientsOnDisk> {
        Arc::clone(&self.shared.clients_file)
    }

    /// What has come from agents and waits for visitors.
    pub fn unread(&self) -> Arc<Unread> {
        Arc::clone(&self.shared.unread)
    }

    /// The memory in use for large heads of waiting requests.
    pub fn held_heads(&self) -> HeldHeads {
        self.shared.held_heads.clone()
    }

    /// What is held of requests until it is known whether they may go on.
    pub fn held_bodies(&self) -> SharedBudget {
        self.shared.held_bodies.clone()
    }

    /// The open exchanges: how many there are, and when the last one has ended.
    pub fn exchanges(&self) -> TaskTracker {
        self.shared.exchanges.clone()
    }

    /// Serves until `stop`, then drains: no new visitors and agents, open requests end within the drain timeout, the
    /// rest is cut.
    pub async fn run(self, stop: CancellationToken) -> Drained {
        let Self { shared, tunnel, public, https, admin, tls, certificate, log } = self;
        let agents = {
            let shared = Arc::clone(&shared);
            listen::accept_loop(tunnel, shared.stop.clone(), move |socket, peer| {
                // Beyond the limits nobody is told: a handshake costs more than a connection.
                if let Some(waiting) = shared.login_permit(peer.ip()) {
                    let serve = crate::server::agents::accept::serve_agent(
                        Arc::clone(&shared),
                        tls.clone(),
                        socket,
                        peer,
                        waiting,
                    );
                    shared.tasks.spawn(until_cut(shared.cut.clone(), serve));
                }
            })
        };
        shared.tasks.spawn(agents);
        for (listener, door) in [(Some(public), Door::Http), (https, Door::Https)] {
            let Some(listener) = listener else { continue };
            let visited = Arc::clone(&shared);
            shared.tasks.spawn(listen::accept_loop(listener, shared.stop.clone(), move |socket, peer| {
                crate::server::ingress::accept_visitor(&visited, socket, peer, door);
            }));
        }
        if let Some((listener, token)) = admin {
            let pin = (certificate.origin != Origin::Own).then_some(certificate.fingerprint);
            let admin = Admin::new(&shared, token, pin, log);
            // It tells that the server is draining for as long as it is.
            shared.tasks.spawn(listen::accept_loop(listener, shared.drained.clone(), admin.door()));
        }
        shared.tasks.spawn(evict_idle(Arc::clone(&shared)));
        shared.tasks.spawn(Arc::clone(&shared).watch_over_tunnels());
        shared.tasks.spawn(Arc::clone(&shared.registry).give_free_names(shared.stop.clone()));
        let certificates = shared.certificates.clone();
        shared.tasks.spawn(certificates.keep_up(shared.stop.clone()));
        shared.tasks.spawn(Arc::clone(&shared.clients_file).keep_up(shared.stop.clone()));
        stop.cancelled().await;
        shared.drain().await
    }
}

/// What counts one login under way. Lives until the login has ended, one way or the other.
type LoginPermit = (AddressPermit, Permit);

impl Shared {
    /// First the address's own limit: a stranger beyond it takes nothing from the others. The fewer places are left, the
    /// fewer of them one address may have.
    fn login_permit(&self, from: IpAddr) -> Option<LoginPermit> {
        let share = self.logins.fair_share(LOGIN_SHARE, LEAST_LOGINS);
        let both = || Some((self.logins_by_address.try_acquire_within(from, share)?, self.logins.try_acquire()?));
        let permit = both();
        if permit.is_none() {
            self.metrics.limited(Limit::LoginsUnderWay);
        }
        permit
    }

    /// Takes connections to the port of a `tcp` service in for as long as anybody holds it.
    fn serve_port(self: &Arc<Self>, port: &OpenPort, listener: TcpListener) {
        let (shared, name) = (Arc::clone(self), port.name.clone());
        let accept = listen::accept_loop(listener, port.closed(), move |socket, peer| {
            crate::server::ingress::accept_connection(&shared, socket, peer, &name);
        });
        self.tasks.spawn(until_cut(self.stop.clone(), accept));
    }
}

/// What the logins of an address that are checked in a minute may cost if so many may fail, in the unit of
/// [`Work::cost`](crate::auth::Work::cost).
fn login_checks(failures: NonZeroU32) -> NonZeroU32 {
    let checks = failures.get().saturating_mul(LOGIN_CHECKS_FOR_A_FAILURE).saturating_add(FIRST_FAILURES.get());
    let cost = u32::try_from(USUAL_COST).unwrap_or(u32::MAX);
    NonZeroU32::new(checks.saturating_mul(cost)).unwrap_or(NonZeroU32::MIN)
}

async fn evict_idle(shared: Arc<Shared>) {
    let mut tick = interval(EVICTION);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = tick.tick() => {
                shared.visitors.evict_idle();
                shared.failed_logins.evict_idle();
                shared.login_checks.evict_idle();
                shared.first_failures.evict_idle();
                shared.refused_tokens.evict_idle();
                shared.passwords.evict_idle();
                shared.wrong_admin_tokens.evict_idle();
            }
        }
    }
}
