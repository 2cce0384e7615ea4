//! The login: from an agent's first message to a value that proves which client it acts for.
//!
//! `proof` checks the credentials, `refused_tokens` caches refusals, `services` checks the offered services, and `invitation`
//! redeems invitations.

mod invitation;
mod proof;
mod refusal;
pub(crate) mod refused_tokens;
mod services;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::protocol::later::{check_required, check_version};
use crate::protocol::login::{Hello, Known, MAX_CLOCK_SKEW_S, Proof, Refusal, Refused};
use crate::protocol::standby::{STANDBY, host_name};
use crate::server::agents::Agents;
use crate::server::directory::authenticated::{AgentRun, Authenticated};
use crate::server::directory::tunnel::Tunnel;
use crate::values::{harmless_line, unix_now};

pub use proof::TICKET_LIFETIME;
pub(crate) use refusal::LoginRefusal;

/// What a successful login gets.
#[derive(Debug)]
#[must_use]
pub(crate) enum LoginOutcome {
    /// A tunnel of its own.
    Tunnel(Authenticated),
    /// A further lane of this tunnel.
    Lane(Arc<Tunnel>),
    /// Only the answer that its proof is valid.
    Known(Known),
}

impl Agents {
    /// Checks a login. A wrong proof counts as a failure of the address. Everything that only the client may learn is checked
    /// after the proof.
    pub(crate) async fn check_login(
        self: &Arc<Self>,
        hello: &Hello,
        peer: SocketAddr,
    ) -> Result<LoginOutcome, LoginRefusal> {
        self.check_draining()?;
        check_version(hello.compatibility.protocol)?;
        check_required(&hello.compatibility.required)?;
        if let Some(join) = &hello.join {
            return self.check_join(hello, join, peer.ip()).map(LoginOutcome::Lane);
        }
        // A login must see the operator's latest change.
        self.client_store.refresh().await;
        if let Some(Proof::Invite(code)) = &hello.proof {
            return self.redeem(code, &hello.client_id, peer.ip()).await.map(LoginOutcome::Known);
        }
        let credential = self.check_proof(hello, peer.ip()).await?;
        // Checking a token takes time.
        self.check_draining()?;
        check_clock(hello.timestamp)?;
        let client = &hello.client_id;
        if hello.services.is_empty() {
            let names = self.directory.clients.names(client);
            return Ok(LoginOutcome::Known(Known { client_id: client.clone(), token: None, names }));
        }
        let services = self.check_services(client, &hello.services, &[]).await?;
        let (usage, agent) = (self.directory.usage_of(client, &self.settings()), self.agent_run(hello, peer));
        Ok(LoginOutcome::Tunnel(Authenticated { client: client.clone(), credential, usage, services, agent }))
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

    /// Checks that the server is not shutting down.
    fn check_draining(&self) -> Result<(), Refused> {
        if self.runtime.shutdown.stop.is_cancelled() {
            return Err(Refused::new(Refusal::Draining, "the server is shutting down; it will be back"));
        }
        Ok(())
    }
}

/// Checks that the agent's clock is close enough to the server's.
fn check_clock(timestamp: u64) -> Result<(), Refused> {
    let now = unix_now();
    let off = now.abs_diff(timestamp);
    if off <= MAX_CLOCK_SKEW_S {
        return Ok(());
    }
    let direction = if timestamp > now { "ahead of" } else { "behind" };
    // The same words at each attempt.
    let unit = if off < 86_400 { 60 } else { 86_400 };
    let off = humantime::format_duration(Duration::from_secs(off / unit * unit));
    Err(Refused::new(
        Refusal::ClockSkew,
        format!(
            "the agent's clock is {off} {direction} the server's; set it (`timedatectl set-ntp true`) and try again"
        ),
    ))
}

/// Returns name, version and platform of the agent.
fn describe(hello: &Hello) -> String {
    // For logs and notices: one short line without control characters.
    let text = format!("{} {} ({})", hello.agent.name, hello.agent.version, hello.agent.os);
    harmless_line(&text).chars().take(100).collect()
}
