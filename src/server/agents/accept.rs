//! Agents' connections, from the TCP socket to a lane.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::auth::LaneSecret;
use crate::link::carriers::mux;
use crate::link::carriers::mux::{MuxConfig, Side};
use crate::link::handshake::{MessageError, receive_hello, send, send_encoded};
use crate::link::write::socket::bound_unsent;
use crate::protocol::json;
use crate::protocol::login::{Answer, Hello, LaneGrant, LaneTerms, PublicService, Refusal, Refused, Welcome};
use crate::protocol::requirements::CAPABILITIES;
use crate::protocol::standby::Standby;
use crate::server::agents::Agents;
use crate::server::agents::admission::LoginAdmission;
use crate::server::agents::lane::{LaneStart, serve_lane};
use crate::server::agents::login::{LoginOutcome, LoginRefusal};
use crate::server::directory::authenticated::Authenticated;
use crate::server::directory::notices::urls_do_not_fit;
use crate::server::directory::registry::{LaneGuard, NameAssignment, Registration};
use crate::server::directory::tunnel::{Lane, Tunnel};
use crate::server::metrics::{LoginMethod, LoginResult, Metrics};
use crate::server::options::ServerOptions;
use crate::transport::plain_http::{is_plain_http, refuse_plain_http};
use crate::values::{LaneId, Name, Secret, TunnelId};

/// How long a refused agent may take to read the refusal.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// How much of a connection is looked at to detect plain HTTP.
const FIRST_BYTES: usize = 16;

/// Serves one agent's connection until it ends. `admission` limits the connections that have not logged in yet.
pub(crate) async fn serve_agent(
    agents: Arc<Agents>,
    tls: TlsAcceptor,
    mut socket: TcpStream,
    mut admission: LoginAdmission,
) {
    let settings = agents.settings();
    let login_timeout = settings.config.tunnel.login_timeout;
    let mut record = LoginRecord::new(&agents.runtime.metrics);
    let logged_in = async {
        admission.resolve(&agents, &mut socket).await?;
        let login = Login { agents: &agents, config: &settings.config, peer: admission.peer };
        login.run(tls, socket, &mut record).await
    };
    let logged_in = tokio::time::timeout(login_timeout, logged_in).await;
    drop(record);
    let peer = admission.peer;
    // The lane keeps what it needs.
    drop(settings);
    drop(admission);
    match logged_in {
        Ok(Ok(Some(start))) => serve_lane(agents, start).await,
        // The login was refused and logged.
        Ok(Ok(None)) => {}
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a connection ended before its login"),
        Err(_) => tracing::debug!(%peer, "a connection did not log in within {login_timeout:?}"),
    }
}

/// Counts a login when dropped. A connection on which no message of the protocol arrived is a scanner and not counted.
struct LoginRecord<'a> {
    metrics: &'a Metrics,
    began: Instant,
    method: Option<LoginMethod>,
    result: LoginResult,
}

impl<'a> LoginRecord<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        Self { metrics, began: Instant::now(), method: None, result: LoginResult::Broken }
    }
}

impl Drop for LoginRecord<'_> {
    fn drop(&mut self) {
        if let Some(method) = self.method {
            self.metrics.login(method, self.result);
            self.metrics.login_time.observe(self.began.elapsed());
        }
    }
}

/// A login in progress.
struct Login<'a> {
    agents: &'a Arc<Agents>,
    config: &'a ServerOptions,
    peer: SocketAddr,
}

/// The tunnel that a new lane belongs to.
enum Admitted {
    /// A tunnel that waits for its first lane.
    First(Registration),
    /// A tunnel that has lanes already.
    Further(Arc<Tunnel>),
}

impl Admitted {
    fn tunnel(&self) -> &Arc<Tunnel> {
        match self {
            Self::First(registration) => registration.tunnel(),
            Self::Further(tunnel) => tunnel,
        }
    }
}

/// A lane whose agent has not received the answer to its login yet.
struct PreparedLane {
    admitted: Admitted,
    lane: LaneId,
    /// The encoded answer.
    answer: Vec<u8>,
    /// The names that the answer assigns to the agent.
    names: Vec<Name>,
}

impl Login<'_> {
    /// Runs the login. Returns `None` if it was refused or only asked whether its proof is valid.
    async fn run(
        &self,
        tls: TlsAcceptor,
        socket: TcpStream,
        record: &mut LoginRecord<'_>,
    ) -> Result<Option<LaneStart>, MessageError> {
        let mut start = [0; FIRST_BYTES];
        let length = socket.peek(&mut start).await?;
        if is_plain_http(&start[..length]) {
            refuse_plain_http(socket, "agents connect here, and visitors at the ports of `public`").await?;
            return Ok(None);
        }
        let mut pipe = tls.accept(socket).await?;
        let hello = match receive_hello(&mut pipe).await? {
            Ok(hello) => hello,
            Err(refused) => {
                record.method = Some(LoginMethod::Nothing);
                record.result = LoginResult::Refused(refused.code);
                if let Some(others) = self.agents.login_refused.turn() {
                    let code = refused.code.word();
                    tracing::info!(peer = %self.peer, code, others, "refused a login: {}", refused.message);
                }
                send_last(pipe, Answer::Refused(refused)).await?;
                return Ok(None);
            }
        };
        record.method = Some(LoginMethod::of(&hello));
        match self.decide(&hello, record).await {
            Ok(Decision::Known(known)) => {
                send_last(pipe, known).await?;
                Ok(None)
            }
            Ok(Decision::Lane(prepared)) => {
                let start = self.start_lane(prepared, pipe).await?;
                record.result = LoginResult::Ok;
                Ok(Some(start))
            }
            Err(refusal) => {
                let code = refusal.refused.code;
                record.result = LoginResult::Refused(code);
                if let Some(others) = self.agents.login_refused.turn() {
                    let (peer, client, reason) = (self.peer, &hello.client_id, refusal.reason());
                    tracing::info!(%peer, %client, code = code.word(), others, "refused a login: {reason}");
                }
                send_last(pipe, Answer::Refused(refusal.refused)).await?;
                Ok(None)
            }
        }
    }

    async fn decide(&self, hello: &Hello, record: &mut LoginRecord<'_>) -> Result<Decision, LoginRefusal> {
        let admitted = match self.agents.check_login(hello, self.peer).await? {
            LoginOutcome::Known(known) => {
                record.result = LoginResult::Known;
                return Ok(Decision::Known(Answer::Known(known)));
            }
            LoginOutcome::Lane(tunnel) => Admitted::Further(tunnel),
            LoginOutcome::Tunnel(login) => self.register(login)?,
        };
        Ok(Decision::Lane(self.prepare_lane(admitted)?))
    }

    fn register(&self, login: Authenticated) -> Result<Admitted, Refused> {
        let no_randomness = |_| Refused::new(Refusal::TooMany, "the server has no randomness");
        let id = TunnelId::random().map_err(no_randomness)?;
        let secret = LaneSecret::random().map_err(no_randomness)?;
        let max_streams = self.config.limits.per_tunnel.streams;
        let registered =
            self.agents.directory.registry.register(login, |login| Tunnel::new(id, login, secret, max_streams));
        Ok(Admitted::First(registered?))
    }

    fn prepare_lane(&self, admitted: Admitted) -> Result<PreparedLane, Refused> {
        let (agents, tunnel, lane) = (self.agents, admitted.tunnel(), LaneId::next());
        let mut services = agents.directory.listeners.urls(&agents.settings()).of_all(&tunnel.services());
        let standby = match &admitted {
            Admitted::First(_) => assign_names(&mut services, agents.directory.registry.preview(tunnel)),
            Admitted::Further(_) => Vec::new(),
        };
        let names = services.iter().map(|public| public.name.clone()).collect();
        let config = self.config;
        let welcome = Welcome {
            tunnel_id: tunnel.id(),
            lane: LaneGrant { lane_id: lane, lane_secret: tunnel.secret().as_secret().clone(), lane_address: None },
            node_id: agents.runtime.node_id.clone(),
            // If the client has just been removed, its lane is closed as soon as that is noticed.
            ticket: agents.ticket(tunnel).unwrap_or_else(|| Secret::new("")),
            services,
            standby,
            terms: LaneTerms {
                heartbeat_s: config.tunnel.heartbeat.as_secs_f64(),
                max_streams: config.limits.per_tunnel.streams_per_lane,
                connect_timeout_s: config.timeouts.connect.as_secs_f64(),
            },
            capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let answer = json::encode_within(json::MAX_ANSWER, &Answer::Welcome(welcome))
            .map_err(|error| urls_do_not_fit(&error))?;
        Ok(PreparedLane { admitted, lane, answer, names })
    }

    /// Sends the answer and makes the connection a lane.
    async fn start_lane(
        &self,
        prepared: PreparedLane,
        mut pipe: TlsStream<TcpStream>,
    ) -> Result<LaneStart, MessageError> {
        let PreparedLane { admitted, lane, answer, names } = prepared;
        let (agents, peer) = (self.agents, self.peer);
        let is_first = matches!(admitted, Admitted::First(_));
        send_encoded(&mut pipe, &answer).await?;
        bound_unsent(pipe.get_ref().0);
        let per_tunnel = &self.config.limits.per_tunnel;
        let max_streams = per_tunnel.streams_per_lane;
        let mux = MuxConfig { max_streams, yield_first: agents.multi_thread, window_growth: per_tunnel.lane_window };
        let (session, driver) =
            mux::session_within(Box::new(pipe), Side::Server, mux, Arc::clone(&agents.directory.unread));
        let (lane, notices) = Lane::new(lane, session, max_streams, per_tunnel.lane_lifetime);
        let guard = match admitted {
            Admitted::First(registration) => registration
                .activate(lane)
                .inspect_err(|error| tracing::info!(%peer, "dropped a login at its end: {}", error.refused().message))
                .ok(),
            Admitted::Further(tunnel) => agents.directory.registry.add_lane(&tunnel, lane),
        };
        // The agent sees the closed connection, retries, and is told the reason.
        let guard = guard.ok_or(MessageError::Closed)?;
        // The clients file may have changed during the login.
        agents.recheck(guard.tunnel());
        self.check_answer(&guard, is_first, &names);
        Ok(LaneStart { guard, driver, notices, peer, heartbeat: self.config.tunnel.heartbeat })
    }

    /// Requests a notice to the agent if the names or URLs in the answer have changed in the meantime.
    fn check_answer(&self, guard: &LaneGuard, is_first: bool, names: &[Name]) {
        let agents = self.agents;
        let has_names =
            || agents.directory.registry.held(guard.tunnel()).iter().map(|service| service.name()).eq(names);
        if agents.settings().config.public != self.config.public || (is_first && !has_names()) {
            guard.tunnel().notify_names_changed();
        }
    }
}

/// What a login gets.
enum Decision {
    /// Its proof is valid; it has asked for nothing else.
    Known(Answer),
    Lane(PreparedLane),
}

/// Removes the services whose name the agent does not get, and returns those as standbys.
fn assign_names(services: &mut Vec<PublicService>, assignments: Vec<NameAssignment>) -> Vec<Standby> {
    let (mut standby, mut assignments) = (Vec::new(), assignments.into_iter());
    services.retain_mut(|public| match assignments.next() {
        Some(NameAssignment::Standby(elsewhere)) => {
            standby.push(elsewhere);
            false
        }
        Some(NameAssignment::Owned { taken_from }) => {
            (public.taken_over, public.taken_from) = (taken_from.is_some(), taken_from);
            true
        }
        None => true,
    });
    standby
}

/// Sends an answer and closes the connection.
async fn send_last(mut pipe: TlsStream<TcpStream>, answer: Answer) -> Result<(), MessageError> {
    let tell = async {
        send(&mut pipe, &answer).await?;
        pipe.shutdown().await?;
        Ok(())
    };
    tokio::time::timeout(REFUSAL_TIMEOUT, tell).await.unwrap_or(Ok(()))
}
