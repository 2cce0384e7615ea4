//! Changes of the services that a connected agent offers.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::protocol::control::Control;
use crate::protocol::login::{Refused, ServiceOffer};
use crate::server::agents::Agents;
use crate::server::directory::tunnel::Tunnel;

/// Minimum time between two changes on one lane, because each takes the registry's lock.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// The requested services, or the refusal of a request that cannot be parsed.
type Requested = Result<Vec<ServiceOffer>, Refused>;

type Work = Pin<Box<dyn Future<Output = Control> + Send>>;

/// The changes that an agent requests on one lane. They run one at a time, and of those that wait only the newest counts.
pub(crate) struct ServiceChanges {
    agents: Arc<Agents>,
    tunnel: Arc<Tunnel>,
    /// The change that is being made.
    current: Option<Work>,
    /// When the next change may begin.
    next: Instant,
    /// The newest requested change, with its number.
    waiting: Option<(u64, Requested)>,
}

impl ServiceChanges {
    pub(crate) fn new(agents: &Arc<Agents>, tunnel: &Arc<Tunnel>) -> Self {
        Self {
            agents: Arc::clone(agents),
            tunnel: Arc::clone(tunnel),
            current: None,
            next: Instant::now(),
            waiting: None,
        }
    }

    /// Requests a change. The answer comes from [`ServiceChanges::answer`].
    pub(crate) fn request(&mut self, change: u64, services: Requested) {
        self.waiting = Some((change, services));
    }

    /// Waits for the answer to a change. Cancel-safe.
    pub(crate) async fn answer(&mut self) -> Control {
        loop {
            if let Some(work) = &mut self.current {
                let answer = work.await;
                self.current = None;
                self.next = Instant::now() + MIN_INTERVAL;
                return answer;
            }
            if self.waiting.is_some() {
                sleep_until(self.next).await;
            }
            match self.waiting.take() {
                Some((change, services)) => {
                    let work = apply(Arc::clone(&self.agents), Arc::clone(&self.tunnel), change, services);
                    self.current = Some(Box::pin(work));
                }
                None => std::future::pending().await,
            }
        }
    }
}

/// Checks a change and applies all of it or nothing.
async fn apply(agents: Arc<Agents>, tunnel: Arc<Tunnel>, change: u64, requested: Requested) -> Control {
    match try_to_apply(&agents, &tunnel, requested).await {
        Ok(offers) => {
            let names = offers.iter().map(|offer| offer.name.as_str()).collect::<Vec<_>>().join(",");
            tracing::info!(client = %tunnel.client(), tunnel = %tunnel.id(), names, "an agent has changed what it offers");
            agents.directory.notices(&agents.settings()).offered(&tunnel, change)
        }
        Err(refused) => {
            let code = refused.code.word();
            tracing::info!(client = %tunnel.client(), tunnel = %tunnel.id(), code, "refused a change: {}", refused.message);
            Control::NotOffered { change, refused }
        }
    }
}

async fn try_to_apply(
    agents: &Arc<Agents>,
    tunnel: &Arc<Tunnel>,
    requested: Requested,
) -> Result<Vec<ServiceOffer>, Refused> {
    let offers = requested?;
    let services = agents.check_services(tunnel.client(), &offers, &tunnel.services()).await?;
    agents.directory.notices(&agents.settings()).check_fits(&services)?;
    agents.directory.registry.change_services(tunnel, services)?;
    tunnel.forget_withheld();
    // The clients file may have changed in the meantime.
    agents.recheck(tunnel);
    Ok(offers)
}
