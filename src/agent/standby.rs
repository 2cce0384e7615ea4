//! What another agent of the same client has of what this one offers.
//!
//! Of several agents that offer a name, the one that was started last has it; the server decides that. This agent stands
//! by for what it has lost: it stays connected, and says with each login which names those are, so that a server which
//! was restarted keeps them for their owner. Without any name left it logs in only at a server that knows of this.

use std::time::Duration;

use parking_lot::Mutex;

use super::leads::Offer;
use crate::protocol::standby::{STANDBY, Standby, host_name};
use crate::values::Name;

/// How long an agent waits that the server has sent away because another one has its names, and as long again at most.
const PAUSE: Duration = Duration::from_secs(30);

/// A name that this agent offers, and another one has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// The name.
    pub name: Name,
    /// Who has it: program, host and address. `None`: it is free, and kept for its owner for a while.
    pub by: Option<String>,
}

impl From<Standby> for Elsewhere {
    fn from(Standby { name, by }: Standby) -> Self {
        Self { name, by: by.map(|by| by.to_string()) }
    }
}

/// What is elsewhere, as the agent knows from whichever server told it last.
#[derive(Debug, Default)]
pub(super) struct Lost(Mutex<Vec<Elsewhere>>);

impl Lost {
    /// A server has said what is elsewhere.
    pub(super) fn set(&self, elsewhere: Vec<Elsewhere>) {
        *self.0.lock() = elsewhere;
    }

    /// All that is offered is with another agent.
    pub(super) fn set_all(&self, offer: &Offer, by: &str) {
        let elsewhere = |name: &Name| Elsewhere { name: name.clone(), by: Some(by.to_owned()) };
        self.set(offer.services.iter().map(|service| elsewhere(&service.name)).collect());
    }

    pub(super) fn all(&self) -> Vec<Elsewhere> {
        self.0.lock().clone()
    }

    /// For a login with `offer`: the names that this agent stands by for.
    pub(super) fn names_in(&self, offer: &Offer) -> Vec<Name> {
        let lost = self.0.lock();
        let names = offer.services.iter().map(|service| &service.name);
        names.filter(|name| lost.iter().any(|elsewhere| elsewhere.name == **name)).cloned().collect()
    }
}

/// What a login requires of the server because of the names that it stands by for, out of so many that it offers. A server
/// that does not know standbys would give it their names at once.
pub(super) fn required_for(waits_for: &[Name], offered: usize) -> Option<String> {
    (!waits_for.is_empty() && waits_for.len() == offered).then(|| STANDBY.to_owned())
}

/// How long to wait before the next login.
pub(super) fn pause() -> Duration {
    let jitter = getrandom::u32().unwrap_or_default() % 1000;
    PAUSE + PAUSE * jitter / 1000
}

/// What this machine is called, for other agents of the client. Reads a file.
pub(super) fn this_host() -> Option<String> {
    let mut from_file = ["/proc/sys/kernel/hostname", "/etc/hostname"].into_iter();
    let from_file = from_file.find_map(|path| std::fs::read_to_string(path).ok()?.lines().next().map(str::to_owned));
    let from_variable = || ["COMPUTERNAME", "HOSTNAME", "HOST"].into_iter().find_map(|name| std::env::var(name).ok());
    host_name(&from_file.or_else(from_variable)?)
}
