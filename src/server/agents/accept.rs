//! Agents' connections, from the TCP socket to a lane.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::lane::{LaneStart, serve_lane};
use super::login::{Declined, Granted};
use crate::auth::LaneSecret;
use crate::link::handshake::{MessageError, receive_hello, send, send_encoded};
use crate::link::mux;
use crate::link::mux::{MuxConfig, Side};
use crate::link::write::socket::bound_unsent;
use crate::protocol::json;
use crate::protocol::login::{Answer, LaneGrant, LaneTerms, Refusal, Refused, Welcome};
use crate::protocol::requirements::CAPABILITIES;
use crate::server::agents::Agents;
use crate::server::agents::limits::LoginPermit;
use crate::server::directory::authenticated::Authenticated;
use crate::server::directory::notices::urls_do_not_fit;
use crate::server::directory::registry::{NameAssignment, Registration};
use crate::server::directory::tunnel::{Lane, Tunnel};
use crate::server::metrics::{LoginResult, Shown};
use crate::server::options::ServerOptions;
use crate::values::{LaneId, Name, TunnelId};

/// How long a peer that was refused may take to read why.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves one agent's connection until it ends. `waiting` bounds how many are not logged in yet.
pub(crate) async fn serve_agent(
    agents: Arc<Agents>,
    tls: TlsAcceptor,
    socket: TcpStream,
    peer: SocketAddr,
    waiting: LoginPermit,
) {
    let settings = agents.settings();
    let login_timeout = settings.config.tunnel.login_timeout;
    let (began, mut came) = (Instant::now(), None);
    let log_in = log_in((&agents, &settings.config), tls, (socket, peer), &mut came);
    let logged_in = tokio::time::timeout(login_timeout, log_in).await;
    // What a lane begins with is all it needs.
    drop(settings);
    drop(waiting);
    // Who has not said a word of the protocol is a scanner, and no login.
    if let Some((shown, result)) = came {
        agents.runtime.metrics.login(shown, result);
        agents.runtime.metrics.login_time.observe(began.elapsed());
    }
    match logged_in {
        Ok(Ok(Some(start))) => serve_lane(agents, start).await,
        // Refused; it has been told and logged.
        Ok(Ok(None)) => {}
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a connection ended before its login"),
        Err(_) => tracing::debug!(%peer, "a connection did not log in within {login_timeout:?}"),
    }
}

async fn log_in(
    (agents, config): (&Arc<Agents>, &ServerOptions),
    tls: TlsAcceptor,
    (socket, peer): (TcpStream, SocketAddr),
    came: &mut Option<(Shown, LoginResult)>,
) -> Result<Option<LaneStart>, MessageError> {
    let mut pipe = tls.accept(socket).await?;
    let hello = match receive_hello(&mut pipe).await? {
        Ok(hello) => hello,
        Err(refused) => {
            came.insert((Shown::Nothing, LoginResult::Broken)).1 = LoginResult::Refused(refused.code);
            if let Some(others) = agents.login_refused.turn() {
                let code = refused.code.word();
                tracing::info!(%peer, code, others, "refused a login: {}", refused.message);
            }
            farewell(pipe, Answer::Refused(refused)).await?;
            return Ok(None);
        }
    };
    let (_, result) = came.insert((Shown::by(&hello), LoginResult::Broken));
    let client = hello.client_id.clone();
    let welcomed = match agents.check_login(&hello, peer).await {
        Ok(Granted::Known(known)) => {
            *result = LoginResult::Known;
            farewell(pipe, Answer::Known(known)).await?;
            return Ok(None);
        }
        Ok(Granted::Lane(tunnel)) => welcome((agents, config), Admitted::Further(tunnel)).map_err(Declined::from),
        Ok(Granted::Tunnel(login)) => admit((agents, config), login)
            .and_then(|admitted| welcome((agents, config), admitted))
            .map_err(Declined::from),
        Err(declined) => Err(declined),
    };
    match welcomed {
        Ok(welcomed) => {
            let start = first_words((agents, config), welcomed, pipe, peer).await?;
            *result = LoginResult::Ok;
            Ok(Some(start))
        }
        Err(declined) => {
            let code = declined.refused.code;
            *result = LoginResult::Refused(code);
            if let Some(others) = agents.login_refused.turn() {
                let why = declined.for_the_log();
                tracing::info!(%peer, %client, code = code.word(), others, "refused a login: {why}");
            }
            farewell(pipe, Answer::Refused(declined.refused)).await?;
            Ok(None)
        }
    }
}

/// An answer after which there is nothing more to say.
async fn farewell(mut pipe: TlsStream<TcpStream>, answer: Answer) -> Result<(), MessageError> {
    let tell = async {
        send(&mut pipe, &answer).await?;
        pipe.shutdown().await?;
        Ok(())
    };
    tokio::time::timeout(FAREWELL, tell).await.unwrap_or(Ok(()))
}

/// What a lane is to become part of.
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

fn admit((agents, config): (&Arc<Agents>, &ServerOptions), login: Authenticated) -> Result<Admitted, Refused> {
    let no_randomness = |_| Refused::new(Refusal::TooMany, "the server has no randomness");
    let id = TunnelId::random().map_err(no_randomness)?;
    let secret = LaneSecret::random().map_err(no_randomness)?;
    let max_streams = config.limits.per_tunnel.streams;
    let registered = agents.directory.registry.register(login, |login| Tunnel::new(id, login, secret, max_streams));
    Ok(Admitted::First(registered?))
}

/// A lane that is as good as up: only the agent has to be told.
struct Welcomed {
    admitted: Admitted,
    lane: LaneId,
    answer: Vec<u8>,
    /// The names that its agent has.
    expected: Vec<Name>,
}

fn welcome((agents, config): (&Arc<Agents>, &ServerOptions), admitted: Admitted) -> Result<Welcomed, Refused> {
    let tunnel = admitted.tunnel();
    let lane = LaneId::next();
    let offered = tunnel.services();
    let (mut services, mut standby) = (agents.directory.urls(&agents.settings()).of_all(&offered), Vec::new());
    if matches!(admitted, Admitted::First(_)) {
        let mut assignments = agents.directory.registry.preview(tunnel).into_iter();
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
    }
    let expected = services.iter().map(|public| public.name.clone()).collect();
    let welcome = Welcome {
        tunnel_id: tunnel.id(),
        lane: LaneGrant { lane_id: lane, lane_secret: tunnel.secret().as_secret().clone(), lane_address: None },
        node_id: agents.runtime.node_id.clone(),
        // A client that was removed a moment ago has its lane cut as soon as that is noticed.
        ticket: agents.ticket(tunnel).unwrap_or_else(|| crate::values::Secret::new("")),
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
    let answer =
        json::encode_within(json::MAX_ANSWER, &Answer::Welcome(welcome)).map_err(|error| urls_do_not_fit(&error))?;
    Ok(Welcomed { admitted, lane, answer, expected })
}

async fn first_words(
    (agents, config): (&Arc<Agents>, &ServerOptions),
    welcomed: Welcomed,
    mut pipe: TlsStream<TcpStream>,
    peer: SocketAddr,
) -> Result<LaneStart, MessageError> {
    let Welcomed { admitted, lane, answer, expected } = welcomed;
    let is_first = matches!(admitted, Admitted::First(_));
    send_encoded(&mut pipe, &answer).await?;
    bound_unsent(pipe.get_ref().0);
    let per_tunnel = &config.limits.per_tunnel;
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
    // The agent finds its connection closed, tries again, and is told why.
    let guard = guard.ok_or(MessageError::Closed)?;
    // The operator may have changed its mind while the login was under way.
    agents.look_at(guard.tunnel());
    let has_names =
        || agents.directory.registry.held(guard.tunnel()).iter().map(|service| service.name().clone()).eq(expected);
    // Others may have come and gone in between.
    if agents.settings().config.public != config.public || (is_first && !has_names()) {
        guard.tunnel().notify_names_changed();
    }
    Ok(LaneStart { guard, driver, notices, peer, heartbeat: config.tunnel.heartbeat })
}
