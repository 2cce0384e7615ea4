//! The login: from an agent's first words to a value that proves who it is.
//!
//! `proof` says whose the login is and `refused` which tokens were refused before, `services` what it may offer, `invitation` makes a client of whoever has a code.

mod invitation;
mod proof;
mod refused;
mod services;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

use crate::limits::ClientUse;
use crate::protocol::later::{check_required, check_version};
use crate::protocol::login::{Hello, Known, MAX_CLOCK_SKEW_S, Proof, Refusal, Refused};
use crate::protocol::standby::{STANDBY, host_name};
use crate::server::Shared;
use crate::server::directory::service::Service;
use crate::server::directory::tunnel::Tunnel;
use crate::tenants::clients::Credential;
use crate::values::{ClientId, InstanceId, Name, harmless_line};

pub(crate) use proof::Declined;
pub use proof::TICKET_LIFETIME;
pub(crate) use refused::RefusedTokens;

/// An agent has proved that it acts for this client, and may offer these services. Made here and nowhere else.
#[derive(Debug, Clone)]
#[must_use = "only a registered login can serve"]
pub struct Authenticated {
    client: ClientId,
    instance: InstanceId,
    agent: String,
    peer: SocketAddr,
    since: Timestamp,
    credential: Credential,
    usage: Arc<ClientUse>,
    services: Vec<Arc<Service>>,
    start: u64,
    host: Option<String>,
    can_stand_by: bool,
    waits_for: Vec<Name>,
}

impl Authenticated {
    /// A login that never was.
    #[cfg(test)]
    pub(crate) fn for_tests(client: &str, instance: InstanceId, names: &[&str]) -> Self {
        use crate::protocol::login::{ServiceKind, ServiceOffer};
        let offer = |name: &&str| ServiceOffer::new(name.parse().unwrap(), ServiceKind::Http);
        Self::offering_for_tests(client, instance, names.iter().map(offer))
    }

    /// A login that never was, with these offers.
    #[cfg(test)]
    pub(crate) fn offering_for_tests(
        client: &str,
        instance: InstanceId,
        offers: impl IntoIterator<Item = crate::protocol::login::ServiceOffer>,
    ) -> Self {
        Self {
            client: ClientId::new(client).unwrap(),
            instance,
            agent: "test".to_owned(),
            peer: ([127, 0, 0, 1], 1).into(),
            since: Timestamp::now(),
            credential: Credential { hash: "".into(), until: None },
            usage: ClientUse::new(crate::limits::Allowance::default()),
            services: offers.into_iter().map(Service::for_tests).collect(),
            start: Self::start_for_tests(instance),
            host: None,
            can_stand_by: false,
            waits_for: Vec::new(),
        }
    }

    /// As the server numbers instances, but without an end.
    #[cfg(test)]
    fn start_for_tests(instance: InstanceId) -> u64 {
        use std::collections::HashMap;
        use std::sync::LazyLock;
        static KNOWN: LazyLock<parking_lot::Mutex<HashMap<InstanceId, u64>>> = LazyLock::new(Default::default);
        let mut known = KNOWN.lock();
        let next = known.len() as u64 + 1;
        *known.entry(instance).or_insert(next)
    }

    /// The same, of an agent that can stand by, and says that it does so for these names.
    #[cfg(test)]
    pub(crate) fn standing_by(self, names: &[&str]) -> Self {
        let waits_for = names.iter().map(|name| name.parse().unwrap()).collect();
        Self { can_stand_by: true, waits_for, ..self }
    }

    /// Who it is.
    pub fn client(&self) -> &ClientId {
        &self.client
    }

    /// Which run of the agent.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// What program it says it is, for logs.
    pub fn agent(&self) -> &str {
        &self.agent
    }

    /// From where it came.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// When it logged in.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// The number of the agent's start.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The host name of its machine, if known.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Whether it supports standby: it stays connected without a name.
    pub fn can_stand_by(&self) -> bool {
        self.can_stand_by
    }

    /// The names for which its login says that it stands by.
    pub fn waits_for(&self) -> &[Name] {
        &self.waits_for
    }

    /// What of the client's it was checked against.
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// What all visitors of the client use together.
    pub fn usage(&self) -> &Arc<ClientUse> {
        &self.usage
    }

    /// What it offers; every name and domain is one that the client may claim.
    pub fn services(&self) -> &[Arc<Service>] {
        &self.services
    }

    /// What it offers, for whoever keeps it from now on.
    pub(crate) fn take_services(&mut self) -> Vec<Arc<Service>> {
        std::mem::take(&mut self.services)
    }
}

/// What a login asks for, and may have.
#[derive(Debug)]
#[must_use]
pub enum Granted {
    /// A tunnel of its own.
    Tunnel(Authenticated),
    /// A further lane of this tunnel.
    Lane(Arc<Tunnel>),
    /// To be told that the proof is good.
    Known(Known),
}

impl Shared {
    /// Decides on a login. A wrong proof counts against the address; everything that only its owner may learn is looked
    /// at after the proof.
    pub(crate) async fn check_login(self: &Arc<Self>, hello: &Hello, peer: SocketAddr) -> Result<Granted, Declined> {
        self.check_draining()?;
        check_version(hello.compatibility.protocol)?;
        check_required(&hello.compatibility.required)?;
        if let Some(join) = &hello.join {
            return self.check_join(hello, join, peer.ip()).map(Granted::Lane);
        }
        // A login must see the operator's latest change.
        self.clients_file.catch_up().await;
        if let Some(Proof::Invite(code)) = &hello.proof {
            return self.redeem(code, &hello.client_id, peer.ip()).await.map(Granted::Known);
        }
        let credential = self.check_proof(hello, peer.ip()).await?;
        // A token takes a moment to check.
        self.check_draining()?;
        check_clock(hello.timestamp)?;
        let client = &hello.client_id;
        if hello.services.is_empty() {
            let names = self.clients.names(client);
            return Ok(Granted::Known(Known { client_id: client.clone(), token: None, names }));
        }
        let services = self.check_services(client, &hello.services, &[]).await?;
        Ok(Granted::Tunnel(Authenticated {
            client: client.clone(),
            instance: hello.instance_id,
            agent: describe(hello),
            peer,
            since: Timestamp::now(),
            credential,
            usage: self.usage_of(client),
            services,
            start: self.starts.number(client, hello.instance_id, self.signed_start(hello), !hello.standby.is_empty()),
            host: hello.agent.host.as_deref().and_then(host_name),
            can_stand_by: hello.compatibility.capabilities.iter().any(|capability| capability == STANDBY),
            waits_for: hello.standby.clone(),
        }))
    }

    fn check_draining(&self) -> Result<(), Refused> {
        match self.stop.is_cancelled() {
            true => Err(Refused::new(Refusal::Draining, "the server is shutting down; it will be back")),
            false => Ok(()),
        }
    }
}

fn check_clock(timestamp: u64) -> Result<(), Refused> {
    let now = unix_now();
    let off = now.abs_diff(timestamp);
    if off <= MAX_CLOCK_SKEW_S {
        return Ok(());
    }
    let direction = if timestamp > now { "ahead of" } else { "behind" };
    let off = humantime::format_duration(Duration::from_secs(off));
    Err(Refused::new(
        Refusal::ClockSkew,
        format!(
            "the agent's clock is {off} {direction} the server's; set it (`timedatectl set-ntp true`) and try again"
        ),
    ))
}

fn describe(hello: &Hello) -> String {
    // For logs and notices: nothing that changes how the line is shown, and no more than a line.
    let text = format!("{} {} ({})", hello.agent.name, hello.agent.version, hello.agent.os);
    harmless_line(&text).chars().take(100).collect()
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
