//! One lane of a tunnel, and its control stream.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::connector::LoggedIn;
use crate::agent::connector::standby::LostName;
use crate::agent::connector::tickets::Tickets;
use crate::agent::handler::Handler;
use crate::link::carriers::mux;
use crate::link::carriers::mux::{MuxConfig, Side, WINDOW_GROWTH};
use crate::link::handshake::{ControlReader, ControlWriter};
use crate::link::session::{Ended, Session};
use crate::link::silence::{Lost, Silence, UNTAKEN_HEARTBEATS};
use crate::link::write::socket::bound_unsent;
use crate::protocol::control::Control;
use crate::protocol::json;
use crate::protocol::login::{PublicService, Refused, Welcome};
use crate::telemetry::STATUS_LOG;
use crate::values::ServerAddress;

/// How long open requests may take to finish when the agent stops or is replaced.
pub(in crate::agent) const GRACE: Duration = Duration::from_secs(30);

/// The longest that a server may take to finish what it has open.
const LONGEST_DRAIN: Duration = Duration::from_secs(24 * 60 * 60);

/// How often the progress of that is reported.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// How long a goodbye may take to reach the server.
pub(in crate::agent) const GOODBYE: Duration = Duration::from_secs(1);

/// What a lane reports to its tunnel.
#[derive(Debug)]
pub(in crate::agent) enum LaneEvent {
    /// The server serves this lane.
    Up,
    /// The server wants another lane.
    OpenLane,
    /// Another agent has the tunnel's names.
    Replaced { by: String },
    /// The server shuts down; what it has open may take so long.
    Draining { limit: Duration },
    /// What the server has accepted, or the operator has changed.
    Accepted { change: u64, services: Vec<PublicService>, lost_names: Vec<LostName> },
    /// The server has refused a change.
    Refused { change: u64, refused: Refused },
}

/// What all lanes of a tunnel have in common.
#[derive(Debug, Clone)]
pub(in crate::agent) struct LaneContext {
    pub(in crate::agent) handler: Arc<Handler>,
    /// Open exchanges.
    pub(in crate::agent) exchanges: TaskTracker,
    /// Lanes tell the server that no more streams are welcome when this is cancelled.
    draining: CancellationToken,
    /// Lanes close their sessions when this is cancelled.
    leave: CancellationToken,
    events: mpsc::Sender<LaneEvent>,
    tickets: Arc<Tickets>,
    server: ServerAddress,
    yield_first: bool,
}

impl LaneContext {
    pub(in crate::agent) fn new(
        handler: Handler,
        events: mpsc::Sender<LaneEvent>,
        tickets: Arc<Tickets>,
        server: ServerAddress,
    ) -> Self {
        let flavor = tokio::runtime::Handle::current().runtime_flavor();
        Self {
            handler: Arc::new(handler),
            exchanges: TaskTracker::new(),
            draining: CancellationToken::new(),
            leave: CancellationToken::new(),
            events,
            tickets,
            server,
            yield_first: flavor == tokio::runtime::RuntimeFlavor::MultiThread,
        }
    }

    /// Lets open exchanges finish, but no longer than [`GRACE`]. Each second `report` is told how many there are, and how much
    /// longer they may take.
    pub(in crate::agent) async fn drain_reporting(&self, report: impl Fn(usize, Duration)) {
        let end = Instant::now() + GRACE;
        let mut tick = interval(REPORT_EVERY);
        let reports = async {
            loop {
                tick.tick().await;
                match self.exchanges.len() {
                    0 => {}
                    open => report(open, end.saturating_duration_since(Instant::now())),
                }
            }
        };
        tokio::select! {
            biased;
            () = self.drain() => {}
            () = reports => {}
        }
    }

    /// Lets open exchanges finish, but no longer than [`GRACE`].
    pub(in crate::agent) async fn drain(&self) {
        self.exchanges.close();
        self.handler.drain();
        self.draining.cancel();
        let open = self.exchanges.len();
        if open > 0 {
            let what = if open == 1 { "request" } else { "requests" };
            tracing::info!(target: STATUS_LOG, "finishing {open} {what}; {GRACE:?} at most");
        }
        if timeout(GRACE, self.exchanges.wait()).await.is_err() {
            tracing::warn!("cut {} requests that did not finish in time", self.exchanges.len());
        }
    }

    /// Closes the sessions of `lanes`.
    pub(in crate::agent) async fn leave(&self, mut lanes: JoinSet<String>) {
        self.leave.cancel();
        let goodbyes = async { while lanes.join_next().await.is_some() {} };
        let _ = timeout(GOODBYE * 2, goodbyes).await;
    }

    /// Serves one lane to its end, and sends what arrives in `outgoing` to the server. Returns why the lane ended.
    pub(in crate::agent) async fn serve_lane(self, login: LoggedIn, outgoing: mpsc::Receiver<Control>) -> String {
        let LoggedIn { pipe, welcome } = login;
        // The server may not exceed what it announced; the multiplexer's own limit is twice that and never reached.
        let max_streams = welcome.terms.max_streams.clamp(1, 8_000) * 2;
        let mux = MuxConfig { max_streams, yield_first: self.yield_first, window_growth: WINDOW_GROWTH };
        bound_unsent(pipe.get_ref().0);
        let (session, driver) = mux::session(Box::new(pipe), Side::Agent, mux);
        let (handler, exchanges) = (Arc::clone(&self.handler), self.exchanges.clone());
        let control = self.control(&session, &welcome, outgoing);
        let drive = driver.run(GOODBYE, move |stream| {
            // Boxed because a task is moved before it runs, and this one is large.
            exchanges.spawn(Box::pin(Arc::clone(&handler).serve(stream)));
        });
        let mut driver = JoinSet::new();
        driver.spawn(drive);
        // It reads everything sent before the end, which may be the reason.
        let why = control.await;
        session.close();
        // The goodbye has a deadline of its own.
        match driver.join_next().await {
            Some(Ok(Ended::Broken(how))) => format!("the connection broke: {how}"),
            _ => why,
        }
    }

    async fn control(&self, session: &Session, welcome: &Welcome, mut outgoing: mpsc::Receiver<Control>) -> String {
        let beat_every = seconds(welcome.terms.heartbeat_s);
        let opened = match json::encode(&Control::Heartbeat) {
            Ok(first) => session.open(&first).await,
            Err(error) => return error.to_string(),
        };
        let Ok(stream) = opened else { return "the connection ended".to_owned() };
        let mut reader = ControlReader::of_server(stream.clone());
        let mut writer = ControlWriter::new(stream);
        let mut beat = interval(beat_every);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silence = Silence::new(session.pulse(), beat_every);
        let (mut up, mut leaving) = (false, false);
        // Every branch is cancel-safe: the reader keeps a message that is incomplete, the rest are queues, timers and
        // tokens.
        loop {
            let message = tokio::select! {
                message = reader.receive() => match message {
                    Ok(message) => {
                        if !std::mem::replace(&mut up, true) {
                            let _ = self.events.try_send(LaneEvent::Up);
                        }
                        self.on_message(message).await;
                        continue;
                    }
                    Err(error) => return error.to_string(),
                },
                lost = silence.is_too_long() => return describe_loss(lost),
                () = self.leave.cancelled() => return "left".to_owned(),
                () = self.draining.cancelled(), if !leaving => {
                    leaving = true;
                    Control::Draining { deadline_s: GRACE.as_secs_f64() }
                }
                Some(message) = outgoing.recv() => message,
                _ = beat.tick() => match writer.beat() {
                    Ok(()) => continue,
                    Err(error) => return error.to_string(),
                },
            };
            // On a slow link the message waits behind bulk transfers; the server is not at fault while bytes move.
            tokio::select! {
                sent = writer.send(&message) => if let Err(error) = sent { return error.to_string() },
                lost = silence.is_too_long() => return describe_loss(lost),
                () = sleep(beat_every * UNTAKEN_HEARTBEATS) => return "the server does not accept control messages".to_owned(),
            }
        }
    }

    async fn on_message(&self, message: Control) {
        let event = match message {
            Control::OpenLane | Control::Rollover => LaneEvent::OpenLane,
            Control::Replaced { by } => LaneEvent::Replaced { by },
            Control::Draining { deadline_s } => {
                let limit = Duration::try_from_secs_f64(deadline_s).unwrap_or_default().min(LONGEST_DRAIN);
                LaneEvent::Draining { limit: limit + GRACE }
            }
            Control::Offered { change, services, standby } => {
                LaneEvent::Accepted { change, services, lost_names: standby.into_iter().map(LostName::from).collect() }
            }
            Control::NotOffered { change, refused } => LaneEvent::Refused { change, refused },
            Control::Ticket { ticket } => {
                self.tickets.keep(&self.server, ticket);
                return;
            }
            Control::Heartbeat | Control::Services { .. } | Control::Unreadable { .. } | Control::Other => return,
        };
        match event {
            // Each of these counts. The tunnel never waits for a lane; once it listens no more, this fails at once.
            LaneEvent::Accepted { .. } | LaneEvent::Refused { .. } => drop(self.events.send(event).await),
            // A full queue means that the same was said many times already.
            _ => drop(self.events.try_send(event)),
        }
    }
}

/// Returns why a lane ends whose server does not respond.
fn describe_loss(lost: Lost) -> String {
    match lost {
        Lost::Silent => format!("the server was silent: {lost}"),
        Lost::Stuck => format!("the server does not read: {lost}"),
    }
}

/// Limits a duration from the server to a sensible range.
pub(in crate::agent) fn seconds(number: f64) -> Duration {
    Duration::try_from_secs_f64(number)
        .unwrap_or(Duration::ZERO)
        .clamp(Duration::from_millis(10), Duration::from_secs(600))
}
