//! One login's tunnel: its lanes, and the control stream of each.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connector::LoggedIn;
use super::handler::Handler;
use super::{Agent, State};
use crate::config::ServerAddress;
use crate::protocol::control::{Control, MISSED_HEARTBEATS};
use crate::protocol::json;
use crate::protocol::login::{Join, Welcome};
use crate::transport::login::{ControlReader, ControlWriter};
use crate::transport::mux::{self, MuxConfig, Session, Side};

/// How long open requests may take to finish when the agent stops or is replaced.
const GRACE: Duration = Duration::from_secs(30);

/// How long a goodbye may take to reach the server.
const GOODBYE: Duration = Duration::from_secs(1);

/// Messages from lanes that may wait for the tunnel.
const QUEUE: usize = 16;

/// How a tunnel ended.
#[derive(Debug)]
pub enum Ended {
    /// As asked.
    Stopped,
    /// A newer login took over its last name.
    Replaced {
        /// What program has.
        by: String,
    },
    /// Its last lane broke.
    Lost(String),
}

/// What a lane tells its tunnel.
#[derive(Debug)]
enum Said {
    /// The server serves this lane.
    Up,
    /// The server wants another lane.
    OpenLane,
    /// A newer login took over.
    Replaced { by: String },
    /// The server shuts down.
    Draining,
}

/// A tunnel that is logged in.
#[derive(Debug)]
pub struct Tunnel<'a> {
    agent: &'a Agent,
    server: ServerAddress,
    first: LoggedIn,
}

/// What all lanes of a tunnel share.
#[derive(Debug, Clone)]
struct Shared {
    handler: Arc<Handler>,
    /// Open exchanges.
    exchanges: TaskTracker,
    /// Lanes tell the server that no more streams are welcome when this is cancelled.
    draining: CancellationToken,
    /// Lanes say goodbye when this is cancelled.
    leave: CancellationToken,
    said: mpsc::Sender<Said>,
    ticket: Arc<parking_lot::Mutex<Option<crate::values::Secret>>>,
    yield_first: bool,
}

impl<'a> Tunnel<'a> {
    pub(super) fn new(agent: &'a Agent, server: ServerAddress, first: LoggedIn) -> Self {
        Self { agent, server, first }
    }

    /// Serves until `stop`, until it is replaced, or until its last lane breaks.
    pub async fn serve(self, stop: &CancellationToken) -> Ended {
        let Self { agent, server, first } = self;
        let welcome = first.welcome.clone();
        let (said, mut heard) = mpsc::channel(QUEUE);
        let connections = TaskTracker::new();
        let connect_timeout = seconds(welcome.connect_timeout_s);
        let flavor = tokio::runtime::Handle::current().runtime_flavor();
        let shared = Shared {
            handler: Arc::new(Handler::new(&agent.config, &agent.local_tls, connect_timeout, &connections)),
            exchanges: TaskTracker::new(),
            draining: CancellationToken::new(),
            leave: CancellationToken::new(),
            said,
            ticket: Arc::clone(&agent.ticket),
            yield_first: flavor == tokio::runtime::RuntimeFlavor::MultiThread,
        };
        let mut lanes = JoinSet::new();
        lanes.spawn(shared.clone().lane(first));
        let mut joining = JoinSet::new();
        let report = |lanes: usize| {
            let services = welcome.services.clone();
            agent.state.send_replace(State::Connected { server: server.to_string(), services, lanes });
        };
        let mut is_up = false;
        let ended = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break Ended::Stopped,
                Some(message) = heard.recv() => match message {
                    // The names lead here only now: the server has claimed them once it speaks on a lane.
                    Said::Up if !is_up => {
                        is_up = true;
                        tracing::info!(%server, tunnel = %welcome.tunnel_id, "connected");
                        report(lanes.len());
                    }
                    Said::Up => {}
                    Said::Replaced { by } => break Ended::Replaced { by },
                    Said::OpenLane if joining.is_empty() => {
                        let join = Join { tunnel_id: welcome.tunnel_id, lane_secret: welcome.lane_secret.clone() };
                        joining.spawn(join_lane(agent.connector.clone(), lane_address(&welcome, &server), join));
                    }
                    Said::OpenLane => {}
                    Said::Draining => tracing::info!(%server, "the server shuts down; open requests may finish"),
                },
                Some(joined) = joining.join_next() => match joined {
                    Ok(Ok(login)) => {
                        tracing::info!(%server, lane = %login.welcome.lane_id, "another lane is up");
                        lanes.spawn(shared.clone().lane(login));
                        report(lanes.len());
                    }
                    Ok(Err(error)) => tracing::warn!(%server, "cannot open another lane: {error}"),
                    Err(_) => {}
                },
                Some(lane) = lanes.join_next() => {
                    let why = lane.unwrap_or_else(|error| error.to_string());
                    if lanes.is_empty() {
                        break Ended::Lost(why);
                    }
                    tracing::info!(%server, "a lane has ended, others go on: {why}");
                    report(lanes.len());
                }
            }
        };
        shared.exchanges.close();
        if !matches!(ended, Ended::Lost(_)) {
            shared.drain().await;
        }
        // Exchanges without a lane end by themselves, at once.
        shared.leave.cancel();
        let goodbyes = async { while lanes.join_next().await.is_some() {} };
        let _ = timeout(GOODBYE * 2, goodbyes).await;
        ended
    }
}

async fn join_lane(
    connector: super::connector::Connector,
    server: ServerAddress,
    join: Join,
) -> Result<LoggedIn, super::connector::ConnectError> {
    connector.log_in(&server, None, Some(join)).await
}

fn lane_address(welcome: &Welcome, server: &ServerAddress) -> ServerAddress {
    welcome.lane_address.as_deref().and_then(|address| address.parse().ok()).unwrap_or_else(|| server.clone())
}

fn seconds(number: f64) -> Duration {
    // What the server says is used within reason.
    Duration::try_from_secs_f64(number)
        .unwrap_or(Duration::ZERO)
        .clamp(Duration::from_millis(10), Duration::from_secs(600))
}

impl Shared {
    /// Lets open exchanges finish, but no longer than [`GRACE`].
    async fn drain(&self) {
        self.handler.drain();
        self.draining.cancel();
        let open = self.exchanges.len();
        if open > 0 {
            tracing::info!("finishing {open} open requests; {GRACE:?} at most");
        }
        if timeout(GRACE, self.exchanges.wait()).await.is_err() {
            tracing::warn!("cut {} requests that did not finish in time", self.exchanges.len());
        }
    }

    /// Serves one lane to its end; says why it ended.
    async fn lane(self, login: LoggedIn) -> String {
        let LoggedIn { pipe, welcome } = login;
        // The server may not exceed what it announced; the multiplexer's own limit is twice that and never reached.
        let mux = MuxConfig { max_streams: welcome.max_streams.clamp(1, 8_000) * 2, yield_first: self.yield_first };
        let (session, driver) = mux::session(Box::new(pipe), Side::Agent, mux);
        let (handler, exchanges) = (Arc::clone(&self.handler), self.exchanges.clone());
        let control = self.control(&session, &welcome);
        let drive = driver.run(GOODBYE, move |stream| {
            exchanges.spawn(Arc::clone(&handler).serve(stream));
        });
        let mut driver = JoinSet::new();
        driver.spawn(drive);
        // It reads whatever was said before the end: that may be why.
        let why = control.await;
        session.close();
        // The goodbye has a deadline of its own.
        match driver.join_next().await {
            Some(Ok(mux::Ended::Broken(how))) => format!("the connection broke: {how}"),
            _ => why,
        }
    }

    async fn control(&self, session: &Session, welcome: &Welcome) -> String {
        let beat_every = seconds(welcome.heartbeat_s);
        let patience = beat_every * MISSED_HEARTBEATS;
        let opened = match json::encode(&Control::Heartbeat) {
            Ok(first) => session.open(&first).await,
            Err(error) => return error.to_string(),
        };
        let Ok(stream) = opened else { return "the connection ended".to_owned() };
        let mut reader = ControlReader::new(stream.clone());
        let mut writer = ControlWriter::new(stream);
        let mut beat = interval(beat_every);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let (mut up, mut leaving) = (false, false);
        // Every branch is cancel-safe: the reader keeps a message that is incomplete, the rest are timers and tokens.
        loop {
            let message = tokio::select! {
                message = reader.receive() => {
                    heard = Instant::now();
                    match message {
                        Ok(message) => {
                            if !std::mem::replace(&mut up, true) {
                                let _ = self.said.try_send(Said::Up);
                            }
                            self.on_message(message);
                            continue;
                        }
                        Err(error) => return error.to_string(),
                    }
                }
                () = sleep_until(heard + patience) => {
                    return format!("the server was silent for {patience:?} ({MISSED_HEARTBEATS} heartbeats)");
                }
                () = self.leave.cancelled() => return "left".to_owned(),
                () = self.draining.cancelled(), if !leaving => {
                    leaving = true;
                    Control::Draining { deadline_s: GRACE.as_secs_f64() }
                }
                _ = beat.tick() => Control::Heartbeat,
            };
            match timeout(patience, writer.send(&message)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return format!("the server took nothing for {patience:?}"),
            }
        }
    }

    fn on_message(&self, message: Control) {
        let said = match message {
            Control::OpenLane | Control::Rollover => Said::OpenLane,
            Control::Replaced { by } => Said::Replaced { by },
            Control::Draining { .. } => Said::Draining,
            Control::Ticket { ticket } => {
                *self.ticket.lock() = Some(ticket);
                return;
            }
            Control::Heartbeat
            | Control::Services { .. }
            | Control::Offered { .. }
            | Control::NotOffered { .. }
            | Control::Other => return,
        };
        // A full queue means that the same was said many times already.
        let _ = self.said.try_send(said);
    }
}
