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

use crate::protocol::later::{check_required, check_version};
use crate::protocol::login::{Hello, Known, MAX_CLOCK_SKEW_S, Proof, Refusal, Refused};
use crate::protocol::standby::{STANDBY, host_name};
use crate::server::agents::Agents;
use crate::server::directory::authenticated::{AgentRun, Authenticated};
use crate::server::directory::tunnel::Tunnel;
use crate::values::harmless_line;

pub(crate) use proof::Declined;
pub use proof::TICKET_LIFETIME;
pub(crate) use refused::RefusedTokens;

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

impl Agents {
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
            let names = self.directory.clients.names(client);
            return Ok(Granted::Known(Known { client_id: client.clone(), token: None, names }));
        }
        let services = self.check_services(client, &hello.services, &[]).await?;
        let (usage, agent) = (self.directory.usage_of(client, &self.settings()), self.agent_run(hello, peer));
        Ok(Granted::Tunnel(Authenticated { client: client.clone(), credential, usage, services, agent }))
    }

    /// Describes the run of an agent that has been authenticated.
    fn agent_run(&self, hello: &Hello, peer: SocketAddr) -> AgentRun {
        let is_on_standby = !hello.standby.is_empty();
        let signed = self.signed_start(hello);
        AgentRun {
            instance: hello.instance_id,
            description: describe(hello),
            host: hello.agent.host.as_deref().and_then(host_name),
            peer,
            since: Timestamp::now(),
            start: self.start_order.number(&hello.client_id, hello.instance_id, signed, is_on_standby),
            can_stand_by: hello.compatibility.capabilities.iter().any(|capability| capability == STANDBY),
            standby_for: hello.standby.clone(),
        }
    }

    fn check_draining(&self) -> Result<(), Refused> {
        match self.runtime.shutdown.stop.is_cancelled() {
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
