//! Changes of the services and the token of a running agent, and what servers have accepted of them.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::agent::connector::tickets::Tickets;
use crate::agent::options::AgentOptions;
use crate::agent::routes::offer::Offer;
use crate::agent::state::SetUpError;
use crate::protocol::login::Refused;
use crate::telemetry::STATUS_LOG;
use crate::values::Secret;

/// What the next login and the next change of services use.
#[derive(Debug, Clone)]
pub(in crate::agent) struct DesiredState {
    pub(in crate::agent) token: Secret,
    pub(in crate::agent) offer: Arc<Offer>,
}

/// A change that a server has refused. The services before it stay.
#[derive(Debug)]
struct RefusedChange {
    offer: Arc<Offer>,
    why: String,
}

/// Changes what an agent offers while it runs, or before. Clones refer to the same agent.
#[derive(Debug, Clone)]
pub struct ServiceChanges {
    desired: watch::Sender<DesiredState>,
    tickets: Arc<Tickets>,
    /// The offer that a server has accepted last.
    accepted: Arc<Mutex<Option<Arc<Offer>>>>,
    /// The change that was refused last, as long as it is the latest.
    refused: Arc<Mutex<Option<RefusedChange>>>,
    /// The number of changes. Its lock serializes them.
    count: Arc<Mutex<u64>>,
    /// Changes when the agent should try its servers immediately.
    reconnect: watch::Sender<()>,
}

impl ServiceChanges {
    /// Starts with `offer`.
    pub(in crate::agent) fn new(token: Secret, offer: Arc<Offer>, tickets: Arc<Tickets>) -> Self {
        Self {
            desired: watch::Sender::new(DesiredState { token, offer }),
            tickets,
            accepted: Arc::default(),
            refused: Arc::default(),
            count: Arc::default(),
            reconnect: watch::Sender::new(()),
        }
    }

    /// Returns whether a server has refused the latest services, so that the previous ones stay. Applying the same services
    /// again offers them again.
    pub fn was_refused(&self) -> bool {
        self.refused.lock().is_some()
    }

    /// Ends the agent's current wait: it tries every server immediately, including those that refused it. Call this after
    /// reloading the configuration or the token file.
    pub fn reconnect_now(&self) {
        self.reconnect.send_replace(());
    }

    /// Applies the services and the token of `config`: the server is told of changed services, and the next login uses the
    /// token. The rest of `config` is ignored. Returns whether the services differ from the desired ones; the agent's
    /// [`State`](crate::agent::State) tells whether the server accepts them. Reads files.
    ///
    /// # Errors
    /// The TLS settings of a local application cannot be used. Then nothing has changed.
    pub fn apply(&self, config: &AgentOptions) -> Result<bool, SetUpError> {
        let mut count = self.count.lock();
        let differs = *self.desired.borrow().offer.services != *config.services;
        let offer = if differs { Some(Arc::new(Offer::prepare(*count + 1, config.services.clone())?)) } else { None };
        *count += u64::from(differs);
        // Restoring the services that are still offered resolves a refusal.
        let is_resolved = !differs && self.refused.lock().take().is_some();
        self.desired.send_if_modified(|desired| {
            if desired.token.expose() != config.token.expose() {
                desired.token = config.token.clone();
                self.tickets.invalidate_proofs();
            }
            if let Some(offer) = offer {
                desired.offer = offer;
            }
            differs || is_resolved
        });
        Ok(differs)
    }

    /// Follows the desired state.
    pub(in crate::agent) fn subscribe(&self) -> watch::Receiver<DesiredState> {
        self.desired.subscribe()
    }

    /// Follows the calls of [`ServiceChanges::reconnect_now`].
    pub(in crate::agent) fn reconnect_requests(&self) -> watch::Receiver<()> {
        self.reconnect.subscribe()
    }

    /// Returns whether there is a token to log in with.
    pub(in crate::agent) fn has_token(&self) -> bool {
        !self.desired.borrow().token.expose().is_empty()
    }

    /// Returns the desired offer.
    pub(in crate::agent) fn offer(&self) -> Arc<Offer> {
        Arc::clone(&self.desired.borrow().offer)
    }

    /// Returns the accepted offer that a refusal of `offer` leads back to.
    pub(in crate::agent) fn fallback_for(&self, offer: &Offer) -> Option<Arc<Offer>> {
        self.accepted.lock().clone().filter(|accepted| accepted.number != offer.number)
    }

    /// Records that a server has accepted `offer`.
    pub(in crate::agent) fn accept(&self, offer: &Arc<Offer>) {
        *self.accepted.lock() = Some(Arc::clone(offer));
        let mut refused = self.refused.lock();
        if refused.as_ref().is_some_and(|change| change.offer.number < offer.number) {
            *refused = None;
        }
    }

    /// Records that a server has refused `offer`, and reverts to the offer `before` unless a newer one is desired already.
    pub(in crate::agent) fn revert(&self, offer: &Arc<Offer>, before: &Arc<Offer>, refused: &Refused) {
        let (code, message) = (refused.code.word(), &refused.message);
        tracing::warn!(target: STATUS_LOG, code, "the server refused the changed services, and those before stay: {message}");
        *self.refused.lock() = Some(RefusedChange { offer: Arc::clone(offer), why: format!("{message} ({code})") });
        self.desired.send_if_modified(|desired| {
            let is_latest = desired.offer.number == offer.number;
            if is_latest {
                desired.offer = Arc::clone(before);
            }
            is_latest
        });
    }

    /// Makes a refused change the desired state again, for a new connection: the server may be another one by then, or
    /// upgraded.
    pub(in crate::agent) fn retry_refused(&self) {
        let _serialized = self.count.lock();
        if let Some(RefusedChange { offer, .. }) = self.refused.lock().take() {
            self.desired.send_modify(|desired| desired.offer = offer);
        }
    }

    /// Returns why the latest change was refused.
    pub(in crate::agent) fn refusal(&self) -> Option<String> {
        self.refused.lock().as_ref().map(|change| change.why.clone())
    }
}
