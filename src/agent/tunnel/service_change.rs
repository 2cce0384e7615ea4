//! A change of services on its way to the server.
//!
//! One change is pending at a time; of later ones, only the latest follows. It is sent on the control stream of a lane, and
//! on another one if that lane breaks. If the server lacks the capability, or does not answer, the agent logs in again as
//! another instance: that login takes over the names, and open requests on this one finish.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{Id, JoinError};
use tokio::time::Instant;

use super::lane::seconds;
use super::{Login, Tunnel};
use crate::agent::connector::ConnectError;
use crate::agent::connector::login::log_in;
use crate::agent::offer_changes::DesiredState;
use crate::agent::routes::offer::Offer;
use crate::protocol::control::{Control, MISSED_HEARTBEATS};
use crate::protocol::login::{PublicService, Refusal, Refused};
use crate::protocol::requirements::{SERVICES, first_missing, required_by};
use crate::telemetry::STATUS_LOG;
use crate::values::InstanceId;

/// The delay before a further login is retried.
const LOGIN_RETRY: Duration = Duration::from_secs(5);

/// The delay before a refused login is retried.
const REFUSED_RETRY: Duration = Duration::from_secs(60);

/// A change that the server has not answered yet.
#[derive(Debug)]
pub(in crate::agent) enum PendingChange {
    /// Sent on a lane. The server may take as long to answer as a lane may be silent.
    Sent { offer: Arc<Offer>, lane: Option<Id>, until: Instant },
    /// A further login is in progress.
    Renewing(Arc<Offer>),
    /// A further login has failed and is retried at this time.
    Retrying(Instant),
}

impl PendingChange {
    /// Returns its deadline.
    pub(in crate::agent) fn until(&self) -> Option<Instant> {
        match self {
            Self::Sent { until, .. } | Self::Retrying(until) => Some(*until),
            Self::Renewing(_) => None,
        }
    }
}

impl Tunnel<'_> {
    /// Begins the change to the desired services.
    pub(in crate::agent) fn begin_change(&mut self) {
        self.changes.pending = None;
        let DesiredState { offer, .. } = self.changes.desired.borrow_and_update().clone();
        if offer.number == self.offered.offer.number {
            // The configuration was restored after a refusal.
            return self.report();
        }
        if offer.for_server() == self.offered.offer.for_server() {
            // Only the backends have changed, which does not concern the server.
            self.complete_change(offer, self.offered.public.clone());
        } else if self.server_supports(&offer) {
            self.lanes.context.handler.routes.begin(&self.offered.offer, &offer);
            self.send_change(offer);
        } else {
            // The server accepts the login only if it supports what the services require.
            tracing::info!(server = %self.login.server, "the server cannot apply this change of services on an open connection; logging in again");
            self.log_in_anew(offer);
        }
    }

    /// Returns whether the server accepts changes on control streams and supports everything that `offer` requires. If it
    /// ignored an access condition, it would admit every visitor.
    fn server_supports(&self, offer: &Offer) -> bool {
        let known = &self.login.welcome.capabilities;
        known.iter().any(|word| word == SERVICES) && first_missing(&required_by(&offer.for_server()), known).is_none()
    }

    /// Sends the change to the server, on the newest lane that accepts it.
    fn send_change(&mut self, offer: Arc<Offer>) {
        let patience = seconds(self.login.welcome.terms.heartbeat_s) * MISSED_HEARTBEATS;
        let services = offer.for_server();
        let message = Control::Services { change: offer.number, required: required_by(&services), services };
        let takes =
            |(lane, sender): &(Id, mpsc::Sender<Control>)| sender.try_send(message.clone()).is_ok().then_some(*lane);
        let lane = self.lanes.control_senders.iter().rev().find_map(takes);
        self.changes.pending = Some(PendingChange::Sent { offer, lane, until: Instant::now() + patience });
    }

    /// Sends a change again that was lost with a lane.
    pub(in crate::agent) fn on_lane_lost(&mut self, lost: Id) {
        match self.changes.pending.take() {
            Some(PendingChange::Sent { offer, lane, .. }) if lane == Some(lost) => self.send_change(offer),
            other => self.changes.pending = other,
        }
    }

    /// Nothing was events for too long, or it is time to try again.
    pub(in crate::agent) fn on_change_timeout(&mut self) {
        match self.changes.pending.take() {
            Some(PendingChange::Sent { offer, .. }) => {
                tracing::warn!(server = %self.login.server, "no answer about the changed services: logging in anew");
                self.lanes.context.handler.routes.revert();
                self.log_in_anew(offer);
            }
            Some(PendingChange::Retrying(_)) => self.begin_change(),
            other => self.changes.pending = other,
        }
    }

    pub(in crate::agent) fn on_accepted(&mut self, change: u64, services: Vec<PublicService>) {
        match self.changes.pending.take() {
            Some(PendingChange::Sent { offer, .. }) if offer.number == change => self.complete_change(offer, services),
            // Late, or repeated.
            other => self.changes.pending = other,
        }
    }

    pub(in crate::agent) fn on_refused(&mut self, change: u64, refused: &Refused) {
        match self.changes.pending.take() {
            Some(PendingChange::Sent { offer, .. }) if offer.number == change => {
                self.lanes.context.handler.routes.revert();
                self.revert_change(&offer, refused);
            }
            other => self.changes.pending = other,
        }
    }

    fn complete_change(&mut self, offer: Arc<Offer>, public: Vec<PublicService>) {
        tracing::info!(target: STATUS_LOG, server = %self.login.server, "the services have changed as the configuration says");
        self.lanes.context.handler.routes.settle(&offer);
        self.agent.changes.accept(&offer);
        (self.offered.offer, self.offered.public) = (offer, public);
        self.report();
    }

    fn revert_change(&mut self, from: &Arc<Offer>, refused: &Refused) {
        self.agent.changes.revert(from, &self.offered.offer, refused);
        self.report();
    }

    fn log_in_anew(&mut self, offer: Arc<Offer>) {
        let instance = match InstanceId::random() {
            Ok(instance) => instance,
            Err(error) => return self.retry_change(&error.to_string(), LOGIN_RETRY),
        };
        let (connector, server) = (self.login.connector.as_another(instance), self.login.server.clone());
        let history = self.agent.history.clone();
        let desired = self.changes.desired.clone();
        let with = DesiredState { offer: Arc::clone(&offer), ..desired.borrow().clone() };
        self.changes.pending = Some(PendingChange::Renewing(offer));
        self.changes.renewing.spawn(async move {
            let first_lane = log_in(&connector, &server, &history, &with).await?;
            Ok(Login { server, connector, offer: with.offer, desired, first_lane })
        });
    }

    /// Handles the end of a further login. Returns one that replaces this tunnel.
    pub(in crate::agent) fn on_renewed(
        &mut self,
        renewed: Result<Result<Login, ConnectError>, JoinError>,
    ) -> Option<Login> {
        let offer = match self.changes.pending.take() {
            Some(PendingChange::Renewing(offer)) => offer,
            other => {
                self.changes.pending = other;
                return None;
            }
        };
        match renewed {
            Ok(Ok(login)) => return Some(login),
            // Only a refusal of the services reverts them; a refused token says nothing about them.
            Ok(Err(ConnectError::Refused(refused)))
                if matches!(refused.code, Refusal::NotAllowed | Refusal::NameTaken | Refusal::Version) =>
            {
                self.revert_change(&offer, &refused);
            }
            Ok(Err(error @ ConnectError::Refused(_))) => self.retry_change(&error.to_string(), REFUSED_RETRY),
            Ok(Err(error)) => self.retry_change(&error.to_string(), LOGIN_RETRY),
            Err(error) => self.retry_change(&error.to_string(), LOGIN_RETRY),
        }
        None
    }

    fn retry_change(&mut self, why: &str, wait: Duration) {
        tracing::warn!(server = %self.login.server, "cannot change the services yet: {why}");
        self.changes.pending = Some(PendingChange::Retrying(Instant::now() + wait));
    }
}
