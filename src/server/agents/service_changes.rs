//! A change of what an agent offers while it is connected.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::protocol::control::Control;
use crate::protocol::login::{Refused, ServiceOffer};
use crate::server::agents::Agents;
use crate::server::directory::tunnel::Tunnel;

/// Between two changes on one lane: each takes the registry's lock, which is everybody's.
const PAUSE: Duration = Duration::from_millis(100);

/// A change of services, or the refusal of one that cannot be parsed.
type Asked = Result<Vec<ServiceOffer>, Refused>;

type Work = Pin<Box<dyn Future<Output = Control> + Send>>;

/// The changes that come on one lane: one at a time, and of those that wait only the newest.
pub(crate) struct Changes {
    agents: Arc<Agents>,
    tunnel: Arc<Tunnel>,
    under_way: Option<Work>,
    /// Not before this moment.
    next: Instant,
    waiting: Option<(u64, Asked)>,
}

impl Changes {
    pub(crate) fn new(agents: &Arc<Agents>, tunnel: &Arc<Tunnel>) -> Self {
        Self {
            agents: Arc::clone(agents),
            tunnel: Arc::clone(tunnel),
            under_way: None,
            next: Instant::now(),
            waiting: None,
        }
    }

    /// The agent wants to offer these. The answer comes from [`Changes::answer`].
    pub(crate) fn ask(&mut self, change: u64, services: Asked) {
        self.waiting = Some((change, services));
    }

    /// The answer to a change, when there is one. Cancel-safe.
    pub(crate) async fn answer(&mut self) -> Control {
        loop {
            if let Some(work) = &mut self.under_way {
                let answer = work.await;
                self.under_way = None;
                self.next = Instant::now() + PAUSE;
                return answer;
            }
            if self.waiting.is_some() {
                sleep_until(self.next).await;
            }
            match self.waiting.take() {
                Some((change, services)) => {
                    let work = offer_instead(Arc::clone(&self.agents), Arc::clone(&self.tunnel), change, services);
                    self.under_way = Some(Box::pin(work));
                }
                None => std::future::pending().await,
            }
        }
    }
}

/// Checks and makes a change, all of it or nothing.
async fn offer_instead(agents: Arc<Agents>, tunnel: Arc<Tunnel>, change: u64, asked: Asked) -> Control {
    match try_to_offer(&agents, &tunnel, asked).await {
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

async fn try_to_offer(agents: &Arc<Agents>, tunnel: &Arc<Tunnel>, asked: Asked) -> Result<Vec<ServiceOffer>, Refused> {
    let offers = asked?;
    let services = agents.check_services(tunnel.client(), &offers, &tunnel.services()).await?;
    agents.directory.notices(&agents.settings()).check_fits(&services)?;
    agents.directory.registry.change_services(tunnel, services)?;
    tunnel.forget_withheld();
    // The operator may have changed its mind in between.
    agents.look_at(tunnel);
    Ok(offers)
}
