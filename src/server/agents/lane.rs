//! A lane on the server after its login: the driver's task, and the control stream.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use crate::link::handshake::{ControlReader, ControlWriter, MessageError};
use crate::link::session::{Driver, Stream};
use crate::link::silence::{Lost, Silence, UNTAKEN_HEARTBEATS};
use crate::protocol::control::{Control, MISSED_HEARTBEATS};
use crate::protocol::later::check_required;
use crate::server::agents::Agents;
use crate::server::agents::login::TICKET_LIFETIME;
use crate::server::agents::requested_changes::ServiceChanges;
use crate::server::directory::registry::LaneGuard;
use crate::server::directory::tunnel::{Lane, RetireReason};
use crate::server::metrics::LaneEnd;

/// How long closing a session may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// After so many heartbeats without a stream, a lane is closed if the tunnel has others.
const IDLE_HEARTBEATS: u32 = 6;

/// What is needed to serve a lane after its login.
pub(crate) struct LaneStart {
    pub(crate) guard: LaneGuard,
    pub(crate) driver: Driver,
    pub(crate) notices: mpsc::Receiver<Control>,
    pub(crate) peer: SocketAddr,
    /// The interval that the agent was told.
    pub(crate) heartbeat: Duration,
}

/// Why a lane ended, for the log.
enum EndReason {
    /// The session has ended. Its driver knows why.
    Session,
    /// The agent violated the protocol.
    Protocol(String),
    /// The agent sent nothing, or did not read.
    Lost(Lost),
    /// The same agent has logged in again.
    Reconnected,
    /// The operator has revoked the agent's token, or all of its services.
    Revoked,
    /// The operator has closed the connection.
    Disconnected,
    /// It was idle, and the tunnel has other lanes.
    NotNeeded,
    /// All streams have ended while it was draining.
    Drained,
    /// So many streams were still open at the drain timeout.
    DrainTimeout(usize),
}

impl EndReason {
    /// Returns the reason for the lanes of a retired tunnel.
    fn of(why: &RetireReason) -> Self {
        match why {
            RetireReason::Reconnected => Self::Reconnected,
            RetireReason::Revoked => Self::Revoked,
            RetireReason::Disconnected => Self::Disconnected,
            RetireReason::Replaced { .. } | RetireReason::Leaving | RetireReason::Draining => Self::Drained,
        }
    }
}

impl From<&EndReason> for LaneEnd {
    fn from(end: &EndReason) -> Self {
        match end {
            EndReason::Session => Self::Connection,
            EndReason::Protocol(_) => Self::Protocol,
            EndReason::Lost(_) => Self::Silent,
            EndReason::Reconnected => Self::CameBack,
            EndReason::Revoked => Self::Revoked,
            EndReason::Disconnected => Self::Disconnected,
            EndReason::NotNeeded => Self::Spare,
            EndReason::Drained => Self::Drained,
            EndReason::DrainTimeout(_) => Self::Cut,
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session => f.write_str("the connection ended"),
            Self::Protocol(what) => write!(f, "the agent broke the protocol: {what}"),
            Self::Lost(lost) => write!(f, "{lost}"),
            Self::Reconnected => f.write_str("the agent has come back on another connection"),
            Self::Revoked => f.write_str("revoked by the operator"),
            Self::Disconnected => f.write_str("disconnected by the operator"),
            Self::NotNeeded => f.write_str("not needed any more"),
            Self::Drained => f.write_str("drained"),
            Self::DrainTimeout(streams) => write!(f, "drained too slowly, {streams} streams were cut"),
        }
    }
}

/// Serves a lane until it ends.
pub(crate) async fn serve_lane(agents: Arc<Agents>, start: LaneStart) {
    let LaneStart { guard, driver, notices, peer, heartbeat } = start;
    let (tunnel, lane) = (Arc::clone(guard.tunnel()), Arc::clone(guard.lane()));
    let names: Vec<String> = tunnel.services().iter().map(|service| service.name().to_string()).collect();
    let names = names.join(",");
    let (client, agent) = (tunnel.client(), tunnel.agent());
    tracing::info!(%client, %names, %peer, agent, tunnel = %tunnel.id(), lane = %lane.id(), "an agent is connected");

    let (opened, control) = oneshot::channel();
    let mut opened = Some(opened);
    let driver = agents.runtime.tasks.all.spawn(driver.run(CLOSE_TIMEOUT, move |stream| {
        // The agent opens one stream, the control stream; anything more is dropped, which resets it.
        if let Some(opened) = opened.take() {
            let _ = opened.send(stream);
        }
    }));
    let lane_run = LaneRun { agents: &agents, guard: &guard, heartbeat };
    let end = lane_run.run(notices, control).await;
    agents.runtime.metrics.lane_ended(LaneEnd::from(&end));
    // This closes the session, here and when this task is cancelled at the end of a shutdown.
    drop(guard);
    let session = driver.await.map_or_else(|error| error.to_string(), |ended| ended.to_string());
    tracing::info!(%client, %names, %peer, tunnel = %tunnel.id(), lane = %lane.id(), session, "an agent's lane is down: {end}");
}

/// A lane that is being served.
#[derive(Clone, Copy)]
struct LaneRun<'a> {
    agents: &'a Arc<Agents>,
    guard: &'a LaneGuard,
    heartbeat: Duration,
}

impl LaneRun<'_> {
    async fn run(self, notices: mpsc::Receiver<Control>, opened: oneshot::Receiver<Stream>) -> EndReason {
        let Self { agents, guard, heartbeat } = self;
        let session = guard.lane().session();
        let mut retired = guard.tunnel().retired();
        let is_ending = |why: &Option<RetireReason>| {
            why.as_ref().is_some_and(|why| why.is_immediate() || *why == RetireReason::Draining)
        };
        let stream = tokio::select! {
            () = session.ended() => return EndReason::Session,
            // Without a control stream the agent cannot be told. A replaced tunnel waits for the stream.
            Ok(why) = retired.wait_for(is_ending) => {
                return why.as_ref().map_or(EndReason::Drained, EndReason::of);
            }
            opened = timeout(heartbeat * MISSED_HEARTBEATS, opened) => match opened {
                Ok(Ok(stream)) => stream,
                Ok(Err(_)) => return EndReason::Session,
                Err(_) => return EndReason::Lost(Lost::Silent),
            },
        };
        let writer = ControlWriter::new(stream.clone());
        let changes = ServiceChanges::new(agents, guard.tunnel());
        let silence = Silence::new(session.pulse(), heartbeat);
        let mut control = LaneControl { run: self, writer, silence, changes, drain_until: None, leaving: false };
        let work = control.run(ControlReader::new(stream), notices);
        let is_closing = |why: &Option<RetireReason>| why.as_ref().is_some_and(RetireReason::is_immediate);
        tokio::select! {
            () = session.ended() => EndReason::Session,
            // A message that the agent does not read must not keep a revoked tunnel open.
            Ok(why) = retired.wait_for(is_closing) => why.as_ref().map_or(EndReason::Drained, EndReason::of),
            end = work => end,
        }
    }
}

/// Waits until `time`; forever if there is none.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Counts how many heartbeats a lane has been idle.
#[derive(Default)]
struct IdleCounter {
    beats: u32,
    opened: u64,
}

impl IdleCounter {
    /// Counts a heartbeat. Returns whether the lane has been idle for long enough to close it.
    fn beat(&mut self, lane: &Lane) -> bool {
        let opened = lane.session().opened();
        let is_idle = lane.streams() == 0 && opened == self.opened;
        (self.beats, self.opened) = (if is_idle { self.beats + 1 } else { 0 }, opened);
        self.beats >= IDLE_HEARTBEATS
    }
}

/// The control stream of a lane.
struct LaneControl<'a> {
    run: LaneRun<'a>,
    writer: ControlWriter,
    silence: Silence,
    /// The changes of services that the agent requests.
    changes: ServiceChanges,
    /// Set while the lane only finishes its open streams.
    drain_until: Option<Instant>,
    /// Whether the agent has announced that it is shutting down.
    leaving: bool,
}

impl LaneControl<'_> {
    async fn run(&mut self, mut reader: ControlReader, mut notices: mpsc::Receiver<Control>) -> EndReason {
        let (tunnel, lane) = (self.run.guard.tunnel(), self.run.guard.lane());
        let mut beat = interval(self.run.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticket = interval(TICKET_LIFETIME / 3);
        ticket.reset();
        let mut retired = tunnel.retired();
        retired.mark_changed();
        let (mut replaced, mut idle) = (false, IdleCounter::default());
        // Every branch is cancel-safe: the reader keeps a message that is incomplete, the rest are timers and queues.
        loop {
            let drain_until = self.drain_until;
            let step = tokio::select! {
                message = reader.receive() => match message {
                    Ok(message) => {
                        self.on_message(message);
                        Ok(())
                    }
                    Err(MessageError::Json(error)) => Err(EndReason::Protocol(error.to_string())),
                    Err(MessageError::Io(_) | MessageError::Closed) => Err(EndReason::Session),
                },
                Ok(()) = retired.changed() => {
                    let why = retired.borrow_and_update().clone();
                    self.on_retired(why).await
                }
                Some(notice) = notices.recv() => self.send(notice).await,
                () = tunnel.names_changed() => {
                    self.run.agents.directory.notices(&self.run.agents.settings()).send(tunnel);
                    Ok(())
                }
                _ = beat.tick() => self.beat(&mut idle),
                answer = self.changes.answer() => self.send(answer).await,
                _ = ticket.tick() => self.send_ticket().await,
                lost = self.silence.is_too_long() => Err(EndReason::Lost(lost)),
                () = lane.replaced(), if !replaced => {
                    replaced = true;
                    Ok(())
                }
                () = lane.idle(), if replaced || drain_until.is_some() => Err(EndReason::Drained),
                () = until(drain_until) => Err(EndReason::DrainTimeout(lane.streams())),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    /// Sends a heartbeat, or ends the lane if it is not needed.
    fn beat(&mut self, idle: &mut IdleCounter) -> Result<(), EndReason> {
        let (tunnel, lane) = (self.run.guard.tunnel(), self.run.guard.lane());
        if idle.beat(lane) && tunnel.release_if_spare(lane) {
            return Err(EndReason::NotNeeded);
        }
        self.writer.beat().map_err(|_| EndReason::Session)
    }

    /// Sends a new ticket, if the agent may have one.
    async fn send_ticket(&mut self) -> Result<(), EndReason> {
        match self.run.agents.ticket(self.run.guard.tunnel()) {
            Some(ticket) => self.send(Control::Ticket { ticket }).await,
            None => Ok(()),
        }
    }

    fn on_message(&mut self, message: Control) {
        match message {
            // Only once, because withdrawing takes the registry's lock.
            Control::Draining { .. } if self.leaving => {}
            Control::Draining { deadline_s } => {
                self.leaving = true;
                let limit = self.run.agents.settings().config.tunnel.drain_timeout;
                let asked = Duration::try_from_secs_f64(deadline_s).unwrap_or(limit);
                // Retired first, so that no change gives it its names back.
                self.run.guard.tunnel().retire(RetireReason::Leaving);
                self.run.agents.directory.registry.withdraw(self.run.guard.tunnel());
                self.drain(asked.min(limit));
            }
            Control::Services { change, services, required } => {
                self.changes.request(change, check_required(&required).map(|()| services));
            }
            Control::Unreadable { change, refused } => self.changes.request(change, Err(refused)),
            // A heartbeat only has to arrive. The rest is for agents, or of a later version.
            Control::Heartbeat
            | Control::OpenLane
            | Control::Replaced { .. }
            | Control::Rollover
            | Control::Ticket { .. }
            | Control::Offered { .. }
            | Control::NotOffered { .. }
            | Control::Other => {}
        }
    }

    async fn on_retired(&mut self, why: Option<RetireReason>) -> Result<(), EndReason> {
        let limit = self.run.agents.settings().config.tunnel.drain_timeout;
        match why {
            None => return Ok(()),
            Some(why) if why.is_immediate() => return Err(EndReason::of(&why)),
            Some(RetireReason::Replaced { by }) => self.send(Control::Replaced { by }).await?,
            // An idle lane may end before it has sent the notice.
            Some(RetireReason::Draining) => self.send(Control::Draining { deadline_s: limit.as_secs_f64() }).await?,
            Some(_) => {}
        }
        self.drain(limit);
        Ok(())
    }

    fn drain(&mut self, limit: Duration) {
        self.run.guard.lane().stop_accepting();
        let until = Instant::now() + limit;
        self.drain_until = Some(self.drain_until.map_or(until, |earlier| earlier.min(until)));
    }

    async fn send(&mut self, message: Control) -> Result<(), EndReason> {
        // On a slow link the message waits behind bulk transfers. That is not the agent's fault while bytes move.
        tokio::select! {
            sent = self.writer.send(&message) => sent.map_err(|_| EndReason::Session),
            lost = self.silence.is_too_long() => Err(EndReason::Lost(lost)),
            () = until(self.drain_until) => Err(EndReason::DrainTimeout(self.run.guard.lane().streams())),
            () = sleep(self.run.heartbeat * UNTAKEN_HEARTBEATS) => Err(EndReason::Lost(Lost::Stuck)),
        }
    }
}
