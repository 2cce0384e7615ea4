//! What a successful login proves.

use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;

use crate::limits::ClientUse;
use crate::server::directory::service::Service;
use crate::tenants::clients::Credential;
use crate::values::{ClientId, InstanceId, Name};

/// An agent that has proved that it acts for a client, and the services that it may offer.
///
/// Only a login makes one: [`crate::server::agents::login`].
#[derive(Debug, Clone)]
#[must_use = "only a registered login can serve"]
pub struct Authenticated {
    pub(crate) client: ClientId,
    /// What the login was checked against.
    pub(crate) credential: Credential,
    /// What all visitors of the client use together.
    pub(crate) usage: Arc<ClientUse>,
    /// The offered services. The client may claim each of their names and domains.
    pub(crate) services: Vec<Arc<Service>>,
    pub(crate) agent: AgentRun,
}

/// One run of an agent, from its start to its end. It may log in several times.
#[derive(Debug, Clone)]
pub struct AgentRun {
    /// Identifies the run. The agent chooses it at random.
    pub(crate) instance: InstanceId,
    /// Name, version and platform of the program, for logs.
    pub(crate) description: String,
    /// The host name of its machine, if known.
    pub(crate) host: Option<String>,
    /// The address that it logged in from.
    pub(crate) peer: SocketAddr,
    /// When it logged in.
    pub(crate) since: Timestamp,
    /// The number of its start: later starts have higher numbers.
    pub(crate) start: u64,
    /// Whether it supports standby: it stays connected without a name.
    pub(crate) can_stand_by: bool,
    /// The names for which it says that it is on standby.
    pub(crate) standby_for: Vec<Name>,
}

#[cfg(test)]
impl Authenticated {
    /// Returns a login of an agent that offers HTTP services with these names.
    pub(crate) fn for_tests(client: &str, instance: InstanceId, names: &[&str]) -> Self {
        use crate::protocol::login::{ServiceKind, ServiceOffer};
        let offer = |name: &&str| ServiceOffer::new(name.parse().unwrap(), ServiceKind::Http);
        Self::offering_for_tests(client, instance, names.iter().map(offer))
    }

    /// Returns a login of an agent with these offers.
    pub(crate) fn offering_for_tests(
        client: &str,
        instance: InstanceId,
        offers: impl IntoIterator<Item = crate::protocol::login::ServiceOffer>,
    ) -> Self {
        Self {
            client: ClientId::new(client).unwrap(),
            credential: Credential { hash: "".into(), until: None },
            usage: ClientUse::new(crate::limits::Allowance::default()),
            services: offers.into_iter().map(Service::for_tests).collect(),
            agent: AgentRun {
                instance,
                description: "test".to_owned(),
                host: None,
                peer: ([127, 0, 0, 1], 1).into(),
                since: Timestamp::now(),
                start: Self::start_for_tests(instance),
                can_stand_by: false,
                standby_for: Vec::new(),
            },
        }
    }

    /// Numbers instances as the server does, but remembers all of them.
    fn start_for_tests(instance: InstanceId) -> u64 {
        use std::collections::HashMap;
        use std::sync::LazyLock;
        static KNOWN: LazyLock<parking_lot::Mutex<HashMap<InstanceId, u64>>> = LazyLock::new(Default::default);
        let mut known = KNOWN.lock();
        let next = known.len() as u64 + 1;
        *known.entry(instance).or_insert(next)
    }

    /// Returns the same login, of an agent that supports standby and says that it is on standby for these names.
    pub(crate) fn standing_by(mut self, names: &[&str]) -> Self {
        self.agent.can_stand_by = true;
        self.agent.standby_for = names.iter().map(|name| name.parse().unwrap()).collect();
        self
    }
}
