//! One lane's life on the server, after its login: the driver's task, and the control stream.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use super::login::TICKET_LIFETIME;
use crate::link::handshake::{ControlReader, ControlWriter, MessageError};
use crate::link::mux::{Driver, MuxStream};
use crate::link::silence::{Lost, Silence, UNTAKEN_HEARTBEATS};
use crate::protocol::control::{Control, MISSED_HEARTBEATS};
use crate::protocol::later::check_required;
use crate::server::agents::Agents;
use crate::server::agents::service_changes::Changes;
use crate::server::directory::registry::LaneGuard;
use crate::server::directory::tunnel::{Lane, RetireReason};
use crate::server::metrics::LaneEnd;

/// How long a goodbye may take to reach an agent.
const GOODBYE: Duration = Duration::from_secs(1);

/// After so many heartbeats without a stream, a lane beside others is not needed any more.
const SPARE_BEATS: u32 = 6;

/// What is needed to serve a lane after its login.
pub(crate) struct LaneStart {
    pub(crate) guard: LaneGuard,
    pub(crate) driver: Driver,
    pub(crate) notices: mpsc::Receiver<Control>,
    pub(crate) peer: SocketAddr,
    /// As the agent was told.
    pub(crate) heartbeat: Duration,
}

/// Why a lane ended, for the log.
enum End {
    /// The session is over; its driver knows why.
    Session,
    /// What the agent said is not of this protocol.
    Protocol(String),
    /// The agent sent nothing, or did not read.
    Lost(Lost),
    /// The same agent has come back on another connection.
    CameBack,
    /// The operator has revoked its token, or what it may offer.
    Revoked,
    /// The operator has ended the connection.
    Disconnected,
    /// The tunnel can do without it.
    Spare,
    /// Everything that was open has ended.
    Drained,
    /// So many streams were still open when the time to drain was over.
    Cut(usize),
}

impl End {
    /// The end of a tunnel that is retired at once.
    fn of(why: &RetireReason) -> Self {
        match why {
            RetireReason::Reconnected => Self::CameBack,
            RetireReason::Revoked => Self::Revoked,
            RetireReason::Disconnected => Self::Disconnected,
            RetireReason::Replaced { .. } | RetireReason::Leaving | RetireReason::Draining => Self::Drained,
        }
    }
}

impl From<&End> for LaneEnd {
    fn from(end: &End) -> Self {
        match end {
            End::Session => Self::Connection,
            End::Protocol(_) => Self::Protocol,
            End::Lost(_) => Self::Silent,
            End::CameBack => Self::CameBack,
            End::Revoked => Self::Revoked,
            End::Disconnected => Self::Disconnected,
            End::Spare => Self::Spare,
            End::Drained => Self::Drained,
            End::Cut(_) => Self::Cut,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session => f.write_str("the connection ended"),
            Self::Protocol(what) => write!(f, "the agent broke the protocol: {what}"),
            Self::Lost(lost) => write!(f, "{lost}"),
            Self::CameBack => f.write_str("the agent has come back on another connection"),
            Self::Revoked => f.write_str("revoked by the operator"),
            Self::Disconnected => f.write_str("disconnected by the operator"),
            Self::Spare => f.write_str("not needed any more"),
            Self::Drained => f.write_str("drained"),
            Self::Cut(streams) => write!(f, "drained too slowly, {streams} streams were cut"),
        }
    }
}

/// Serves a lane until it ends, for whatever reason.
pub(crate) async fn serve_lane(agents: Arc<Agents>, start: LaneStart) {
    let LaneStart { guard, driver, notices, peer, heartbeat } = start;
    let (tunnel, lane) = (Arc::clone(guard.tunnel()), Arc::clone(guard.lane()));
    let names: Vec<String> = tunnel.services().iter().map(|service| service.name().to_string()).collect();
    let names = names.join(",");
    let (client, agent) = (tunnel.client(), tunnel.agent());
    tracing::info!(%client, %names, %peer, agent, tunnel = %tunnel.id(), lane = %lane.id(), "an agent is connected");

    let (opened, control) = oneshot::channel();
    let mut opened = Some(opened);
    let driver = agents.runtime.tasks.all.spawn(driver.run(GOODBYE, move |stream| {
        // The agent opens one stream, the control stream; anything more is dropped, which resets it.
        if let Some(opened) = opened.take() {
            let _ = opened.send(stream);
        }
    }));
    let end = run(&agents, (&guard, heartbeat), notices, control).await;
    agents.runtime.metrics.lane_ended(LaneEnd::from(&end));
    // Its end is the end of the session, here and when this task is cut at the end of a drain.
    drop(guard);
    let session = driver.await.map_or_else(|error| error.to_string(), |ended| ended.to_string());
    tracing::info!(%client, %names, %peer, tunnel = %tunnel.id(), lane = %lane.id(), session, "an agent's lane is down: {end}");
}

async fn run(
    agents: &Arc<Agents>,
    (guard, heartbeat): (&LaneGuard, Duration),
    notices: mpsc::Receiver<Control>,
    opened: oneshot::Receiver<MuxStream>,
) -> End {
    let session = guard.lane().session();
    let mut retired = guard.tunnel().retired();
    let at_once = |why: &Option<RetireReason>| {
        why.as_ref().is_some_and(|why| why.is_immediate() || *why == RetireReason::Draining)
    };
    let stream = tokio::select! {
        () = session.ended() => return End::Session,
        // Without a control stream there is nobody to tell. A tunnel that is replaced waits for it.
        Ok(why) = retired.wait_for(at_once) => {
            return why.as_ref().map_or(End::Drained, End::of);
        }
        opened = timeout(heartbeat * MISSED_HEARTBEATS, opened) => match opened {
            Ok(Ok(stream)) => stream,
            Ok(Err(_)) => return End::Session,
            Err(_) => return End::Lost(Lost::Silent),
        },
    };
    let writer = ControlWriter::new(stream.clone());
    let changes = Changes::new(agents, guard.tunnel());
    let silence = Silence::new(session.pulse(), heartbeat);
    let mut control =
        LaneControl { agents, guard, writer, heartbeat, silence, changes, drain_until: None, leaving: false };
    let work = control.run(ControlReader::new(stream), notices);
    let revoked = |why: &Option<RetireReason>| why.as_ref().is_some_and(RetireReason::is_immediate);
    tokio::select! {
        () = session.ended() => End::Session,
        // A message that the agent does not read must not keep a revoked tunnel open.
        Ok(why) = retired.wait_for(revoked) => why.as_ref().map_or(End::Drained, End::of),
        end = work => end,
    }
}

/// For ever, without a time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// How long nothing was open on a lane, in heartbeats.
#[derive(Default)]
struct Spare {
    beats: u32,
    opened: u64,
}

impl Spare {
    /// Counts a heartbeat; says whether there were enough.
    fn is_over(&mut self, lane: &Lane) -> bool {
        let opened = lane.session().opened();
        let is_quiet = lane.streams() == 0 && opened == self.opened;
        (self.beats, self.opened) = (if is_quiet { self.beats + 1 } else { 0 }, opened);
        self.beats >= SPARE_BEATS
    }
}

struct LaneControl<'a> {
    agents: &'a Arc<Agents>,
    guard: &'a LaneGuard,
    writer: ControlWriter,
    heartbeat: Duration,
    silence: Silence,
    /// What the agent wants to offer instead of what it offers.
    changes: Changes,
    /// Set once the lane only finishes what is open.
    drain_until: Option<Instant>,
    /// The agent has said that it is leaving.
    leaving: bool,
}

impl LaneControl<'_> {
    async fn run(&mut self, mut reader: ControlReader, mut notices: mpsc::Receiver<Control>) -> End {
        let (tunnel, lane) = (self.guard.tunnel(), self.guard.lane());
        let mut beat = interval(self.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticket = interval(TICKET_LIFETIME / 3);
        ticket.reset();
        let mut retired = tunnel.retired();
        retired.mark_changed();
        let (mut succeeded, mut spare) = (false, Spare::default());
        // Every branch is cancel-safe: the reader keeps a message that is incomplete, the rest are timers and queues.
        loop {
            let drain_until = self.drain_until;
            let step = tokio::select! {
                message = reader.receive() => match message {
                    Ok(message) => {
                        self.on_message(message);
                        Ok(())
                    }
                    Err(MessageError::Json(error)) => Err(End::Protocol(error.to_string())),
                    Err(MessageError::Io(_) | MessageError::Closed) => Err(End::Session),
                },
                Ok(()) = retired.changed() => {
                    let why = retired.borrow_and_update().clone();
                    self.on_retired(why).await
                }
                Some(notice) = notices.recv() => self.send(notice).await,
                () = tunnel.names_changed() => {
                    self.agents.directory.notices(&self.agents.settings()).send(tunnel);
                    Ok(())
                }
                _ = beat.tick() => match spare.is_over(lane) && tunnel.release_if_spare(lane) {
                    true => Err(End::Spare),
                    false => self.writer.beat().map_err(|_| End::Session),
                },
                answer = self.changes.answer() => self.send(answer).await,
                _ = ticket.tick() => match self.agents.ticket(tunnel) {
                    Some(ticket) => self.send(Control::Ticket { ticket }).await,
                    None => Ok(()),
                },
                lost = self.silence.is_too_long() => Err(End::Lost(lost)),
                () = lane.replaced(), if !succeeded => {
                    succeeded = true;
                    Ok(())
                }
                () = lane.idle(), if succeeded || drain_until.is_some() => Err(End::Drained),
                () = until(drain_until) => Err(End::Cut(lane.streams())),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    fn on_message(&mut self, message: Control) {
        match message {
            // Once is enough: the registry's lock is everybody's.
            Control::Draining { .. } if self.leaving => {}
            Control::Draining { deadline_s } => {
                self.leaving = true;
                let limit = self.agents.settings().config.tunnel.drain_timeout;
                let asked = Duration::try_from_secs_f64(deadline_s).unwrap_or(limit);
                // First it serves no more: then no change brings its names back.
                self.guard.tunnel().retire(RetireReason::Leaving);
                self.agents.directory.registry.withdraw(self.guard.tunnel());
                self.drain(asked.min(limit));
            }
            Control::Services { change, services, required } => {
                self.changes.ask(change, check_required(&required).map(|()| services));
            }
            Control::Unreadable { change, refused } => self.changes.ask(change, Err(refused)),
            // Heartbeats have done their work by coming; the rest is for agents, or of a later version.
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

    async fn on_retired(&mut self, why: Option<RetireReason>) -> Result<(), End> {
        let limit = self.agents.settings().config.tunnel.drain_timeout;
        match why {
            None => return Ok(()),
            Some(why) if why.is_immediate() => return Err(End::of(&why)),
            Some(RetireReason::Replaced { by }) => self.send(Control::Replaced { by }).await?,
            Some(_) => {}
        }
        self.drain(limit);
        Ok(())
    }

    fn drain(&mut self, limit: Duration) {
        self.guard.lane().stop_accepting();
        let until = Instant::now() + limit;
        self.drain_until = Some(self.drain_until.map_or(until, |earlier| earlier.min(until)));
    }

    async fn send(&mut self, message: Control) -> Result<(), End> {
        // On a slow link the message waits behind bulk transfers; the agent is not at fault while bytes move.
        tokio::select! {
            sent = self.writer.send(&message) => sent.map_err(|_| End::Session),
            lost = self.silence.is_too_long() => Err(End::Lost(lost)),
            () = until(self.drain_until) => Err(End::Cut(self.guard.lane().streams())),
            () = sleep(self.heartbeat * UNTAKEN_HEARTBEATS) => Err(End::Lost(Lost::Stuck)),
        }
    }
}
