//! A change of services on its way to the server.
//!
//! One is under way at a time; what is wanted meanwhile follows, the latest alone. The server is asked on the control
//! stream of a lane, and on another one if that lane breaks. A server that does not know the question, or does not answer
//! it, is logged in to anew, as another instance: that login takes the names over, and what is open on this one finishes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{Id, JoinError};
use tokio::time::Instant;

use super::connector::ConnectError;
use super::lane::seconds;
use super::tunnel::{Login, Tunnel};
use super::{Wanted, log_in};
use crate::agent::routes::Offer;
use crate::protocol::control::{Control, MISSED_HEARTBEATS};
use crate::protocol::login::{PublicService, Refusal, Refused};
use crate::protocol::requirements::{SERVICES, first_missing, required_by};
use crate::telemetry::STATUS_LOG;
use crate::values::InstanceId;

/// How long to wait before a further login is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// The delay after a refused login.
const REFUSED: Duration = Duration::from_secs(60);

/// What the server has not answered yet.
#[derive(Debug)]
pub(super) enum UnderWay {
    /// It was told on a lane, and has as long to answer as a lane may be silent.
    Told { offer: Arc<Offer>, lane: Option<Id>, until: Instant },
    /// A further login is on its way.
    Renewing(Arc<Offer>),
    /// One has failed, and is tried again.
    TryingAgain(Instant),
}

impl UnderWay {
    /// When something has to be done about it.
    pub(super) fn until(&self) -> Option<Instant> {
        match self {
            Self::Told { until, .. } | Self::TryingAgain(until) => Some(*until),
            Self::Renewing(_) => None,
        }
    }
}

impl Tunnel<'_> {
    /// Brings about what is wanted now.
    pub(super) fn begin_change(&mut self) {
        self.under_way = None;
        let Wanted { offer, .. } = self.wanted.borrow_and_update().clone();
        if offer.number == self.offer.number {
            // A refusal may have been mended by putting everything back.
            return self.report();
        }
        if offer.for_server() == self.offer.for_server() {
            // Only where services lead has changed, which is nobody else's business.
            self.settle(offer, self.public.clone());
        } else if self.understands(&offer) {
            self.shared.handler.leads.begin(&self.offer, &offer);
            self.tell(offer);
        } else {
            // The server accepts the login only if it supports what the services require.
            tracing::info!(server = %self.server, "the server cannot apply this change of services on an open connection; logging in again");
            self.renew(offer);
        }
    }

    /// Returns whether the server accepts changes on control streams and supports everything that `offer` requires. If it
    /// ignored an access condition, it would admit every visitor.
    fn understands(&self, offer: &Offer) -> bool {
        let known = &self.welcome.capabilities;
        known.iter().any(|word| word == SERVICES) && first_missing(&required_by(&offer.for_server()), known).is_none()
    }

    /// Tells the server, on the newest lane that takes it.
    fn tell(&mut self, offer: Arc<Offer>) {
        let patience = seconds(self.welcome.terms.heartbeat_s) * MISSED_HEARTBEATS;
        let services = offer.for_server();
        let message = Control::Services { change: offer.number, required: required_by(&services), services };
        let takes =
            |(lane, speaker): &(Id, mpsc::Sender<Control>)| speaker.try_send(message.clone()).is_ok().then_some(*lane);
        let lane = self.speakers.iter().rev().find_map(takes);
        self.under_way = Some(UnderWay::Told { offer, lane, until: Instant::now() + patience });
    }

    /// The change may have been lost with a lane.
    pub(super) fn on_lane_lost(&mut self, lost: Id) {
        match self.under_way.take() {
            Some(UnderWay::Told { offer, lane, .. }) if lane == Some(lost) => self.tell(offer),
            other => self.under_way = other,
        }
    }

    /// Nothing was heard for too long, or it is time to try again.
    pub(super) fn on_late(&mut self) {
        match self.under_way.take() {
            Some(UnderWay::Told { offer, .. }) => {
                tracing::warn!(server = %self.server, "no answer about the changed services: logging in anew");
                self.shared.handler.leads.go_back();
                self.renew(offer);
            }
            Some(UnderWay::TryingAgain(_)) => self.begin_change(),
            other => self.under_way = other,
        }
    }

    pub(super) fn on_offered(&mut self, change: u64, services: Vec<PublicService>) {
        match self.under_way.take() {
            Some(UnderWay::Told { offer, .. }) if offer.number == change => self.settle(offer, services),
            // Late, or said twice.
            other => self.under_way = other,
        }
    }

    pub(super) fn on_not_offered(&mut self, change: u64, refused: &Refused) {
        match self.under_way.take() {
            Some(UnderWay::Told { offer, .. }) if offer.number == change => {
                self.shared.handler.leads.go_back();
                self.turn_back(&offer, refused);
            }
            other => self.under_way = other,
        }
    }

    fn settle(&mut self, offer: Arc<Offer>, public: Vec<PublicService>) {
        tracing::info!(target: STATUS_LOG, server = %self.server, "the services have changed as the configuration says");
        self.shared.handler.leads.settle(&offer);
        self.agent.agreed(&offer);
        (self.offer, self.public) = (offer, public);
        self.report();
    }

    fn turn_back(&mut self, from: &Arc<Offer>, refused: &Refused) {
        self.agent.turn_back(from, &self.offer, refused);
        self.report();
    }

    fn renew(&mut self, offer: Arc<Offer>) {
        let instance = match InstanceId::random() {
            Ok(instance) => instance,
            Err(error) => return self.try_again(&error.to_string(), TRY_AGAIN),
        };
        let (connector, server) = (self.connector.as_another(instance), self.server.clone());
        let (tickets, lost) = (Arc::clone(&self.agent.tickets), Arc::clone(&self.agent.lost));
        let wanted = self.wanted.clone();
        let with = Wanted { offer: Arc::clone(&offer), ..wanted.borrow().clone() };
        self.under_way = Some(UnderWay::Renewing(offer));
        self.renewing.spawn(async move {
            let first = log_in(&connector, &server, (&tickets, &lost), &with).await?;
            Ok(Login { server, connector, offer: with.offer, wanted, first })
        });
    }

    /// What has come of a further login. Gives one that takes this one's place.
    pub(super) fn on_renewed(&mut self, renewed: Result<Result<Login, ConnectError>, JoinError>) -> Option<Login> {
        let offer = match self.under_way.take() {
            Some(UnderWay::Renewing(offer)) => offer,
            other => {
                self.under_way = other;
                return None;
            }
        };
        match renewed {
            Ok(Ok(login)) => return Some(login),
            // Only a refusal of the services reverts them; a refused token says nothing about them.
            Ok(Err(ConnectError::Refused(refused)))
                if matches!(refused.code, Refusal::NotAllowed | Refusal::NameTaken | Refusal::Version) =>
            {
                self.turn_back(&offer, &refused);
            }
            Ok(Err(error @ ConnectError::Refused(_))) => self.try_again(&error.to_string(), REFUSED),
            Ok(Err(error)) => self.try_again(&error.to_string(), TRY_AGAIN),
            Err(error) => self.try_again(&error.to_string(), TRY_AGAIN),
        }
        None
    }

    fn try_again(&mut self, why: &str, wait: Duration) {
        tracing::warn!(server = %self.server, "cannot change the services yet: {why}");
        self.under_way = Some(UnderWay::TryingAgain(Instant::now() + wait));
    }
}
