//! The names of this agent that another agent of the same client has.
//!
//! Of several agents that offer a name, the one that was started last has it; the server decides that. This agent stands
//! by for the names that it has lost. It stays connected and lists these names in each login, so that a restarted server
//! reserves them for their owner. If it has lost all names, it logs in only at servers with the capability `standby`.

use std::time::Duration;

use parking_lot::Mutex;

use crate::agent::routes::offer::Offer;
use crate::protocol::json::{self, JsonError};
use crate::protocol::login::Hello;
use crate::protocol::standby::{STANDBY, Standby, host_name};
use crate::values::Name;

/// The minimum delay before an agent logs in again after `replaced`. Jitter can double it.
const PAUSE: Duration = Duration::from_secs(30);

/// A name that this agent offers and another agent has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostName {
    /// The name.
    pub name: Name,
    /// The agent that has it: program, host and address. `None` if the name is free and reserved for its owner.
    pub by: Option<String>,
    /// Who had it before it was free, if this agent has heard of that.
    pub before: Option<String>,
}

impl LostName {
    /// Who has it, or had it last.
    pub fn owner(&self) -> Option<&str> {
        self.by.as_deref().or(self.before.as_deref())
    }
}

impl From<Standby> for LostName {
    fn from(Standby { name, by }: Standby) -> Self {
        Self { name, by: by.map(|by| by.to_string()), before: None }
    }
}

/// The names that other agents have, as the last server to report them said.
#[derive(Debug, Default)]
pub(in crate::agent) struct LostNames(Mutex<Vec<LostName>>);

impl LostNames {
    /// Stores the names that a server has reported. Who had a name stays known while the name is free. Gives what was elsewhere
    /// until now.
    pub(in crate::agent) fn set(&self, mut elsewhere: Vec<LostName>) -> Vec<LostName> {
        let mut lost = self.0.lock();
        for free in elsewhere.iter_mut().filter(|now| now.by.is_none()) {
            let last = lost.iter().find(|last| last.name == free.name);
            free.before = last.and_then(|last| last.by.clone().or_else(|| last.before.clone()));
        }
        std::mem::replace(&mut lost, elsewhere)
    }

    /// Records that another agent has every offered name.
    pub(in crate::agent) fn set_all(&self, offer: &Offer, by: &str) {
        let elsewhere = |name: &Name| LostName { name: name.clone(), by: Some(by.to_owned()), before: None };
        self.set(offer.services.iter().map(|service| elsewhere(&service.name)).collect());
    }

    pub(in crate::agent) fn all(&self) -> Vec<LostName> {
        self.0.lock().clone()
    }

    /// Returns the names in `offer` for which this agent stands by.
    pub(in crate::agent) fn names_in(&self, offer: &Offer) -> Vec<Name> {
        let lost = self.0.lock();
        let names = offer.services.iter().map(|service| &service.name);
        names.filter(|name| lost.iter().any(|elsewhere| elsewhere.name == **name)).cloned().collect()
    }
}

/// Returns the capability that a login requires if the agent stands by for all of its names. A server without it would
/// give the agent the names immediately.
pub(in crate::agent) fn required_for(waits_for: &[Name], offered: usize) -> Option<String> {
    (!waits_for.is_empty() && waits_for.len() == offered).then(|| STANDBY.to_owned())
}

/// Drops standby names until the message fits its size limit: 64 long names and the largest conditions together would
/// exceed it. One name is enough for the server to order the agent's start.
pub(in crate::agent) fn trim_to_fit(hello: &mut Hello) {
    while matches!(json::encode(hello), Err(JsonError::TooLarge { .. })) && hello.standby.pop().is_some() {}
}

/// Returns how long to wait before the next login.
pub(in crate::agent) fn pause() -> Duration {
    let jitter = getrandom::u32().unwrap_or_default() % 1000;
    PAUSE + PAUSE * jitter / 1000
}

/// Returns the host name of this machine, for other agents of the client. Reads a file.
pub(in crate::agent) fn this_host() -> Option<String> {
    let mut from_file = ["/proc/sys/kernel/hostname", "/etc/hostname"].into_iter();
    let from_file = from_file.find_map(|path| std::fs::read_to_string(path).ok()?.lines().next().map(str::to_owned));
    let from_variable = || ["COMPUTERNAME", "HOSTNAME", "HOST"].into_iter().find_map(|name| std::env::var(name).ok());
    host_name(&from_file.or_else(from_variable)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::options::AgentOptions;
    use crate::protocol::login::{AgentInfo, Compatibility, Proof, ServiceKind, ServiceOffer};
    use crate::protocol::requirements::required_by;
    use crate::schema::{Environment, Flags};
    use crate::values::{ClientId, InstanceId, Secret};

    fn offer(names: &[&str]) -> Offer {
        let services = names.iter().map(|name| format!("[[services]]\nname = '{name}'\nlocal = 3000\n"));
        let text =
            format!("servers = ['a.example']\nclient_id = 'alice'\ntoken = 'adit_x'\n{}", services.collect::<String>());
        let file = std::path::Path::new("agent.toml");
        let config = AgentOptions::from_text(file, &text, &Environment::default(), &Flags::new()).unwrap();
        Offer::prepare(1, config.services).unwrap()
    }

    fn elsewhere(name: &str, by: Option<&str>) -> LostName {
        LostName { name: name.parse().unwrap(), by: by.map(str::to_owned), before: None }
    }

    #[test]
    fn who_had_a_name_stays_known_while_it_is_free() {
        let lost = LostNames::default();
        let before = |name: &str| lost.all().into_iter().find(|lost| lost.name.as_str() == name)?.before;
        lost.set(vec![elsewhere("blog", Some("desktop")), elsewhere("alice", None)]);
        for _ in 0..2 {
            lost.set(vec![elsewhere("blog", None), elsewhere("alice", None)]);
            assert_eq!((before("blog").as_deref(), before("alice")), (Some("desktop"), None));
        }
        let until_now = lost.set(vec![elsewhere("alice", Some("laptop"))]);
        assert_eq!(until_now[0].before.as_deref(), Some("desktop"), "whoever takes it over can say from whom");
        lost.set(vec![elsewhere("blog", None)]);
        assert_eq!(before("blog"), None, "it was here in between");
    }

    #[test]
    fn an_agent_without_a_name_left_logs_in_only_where_standbys_are_known() {
        let lost = LostNames::default();
        let both = offer(&["alice", "blog"]);
        assert_eq!(required_for(&lost.names_in(&both), 2), None);
        lost.set(vec![elsewhere("blog", None)]);
        assert_eq!(required_for(&lost.names_in(&both), 2), None, "it has a name left");
        assert_eq!(required_for(&lost.names_in(&offer(&["blog"])), 1).as_deref(), Some(STANDBY));
        assert_eq!(lost.names_in(&offer(&["alice"])), [], "what it does not offer any more is no matter");
        lost.set_all(&both, "another");
        assert_eq!(required_for(&lost.names_in(&both), 2).as_deref(), Some(STANDBY));
        assert!(lost.all().iter().all(|elsewhere| elsewhere.by.as_deref() == Some("another")));
    }

    #[test]
    fn the_largest_configuration_can_log_in_and_stand_by() {
        let name = |at: usize| format!("{at:a<63}").parse::<Name>().unwrap();
        let mut services: Vec<ServiceOffer> =
            (100..164).map(|at| ServiceOffer::new(name(at), ServiceKind::Http)).collect();
        // As much as a configuration may have of it.
        let size = |services: &[ServiceOffer]| serde_json::to_vec(services).unwrap().len();
        for at in 0.. {
            let at = at % services.len();
            services[at].access.allow.push("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff/128".parse().unwrap());
            if size(&services) > json::MAX - 2 * 1024 {
                let _ = services[at].access.allow.pop();
                break;
            }
        }
        let standby: Vec<Name> = services.iter().map(|service| service.name.clone()).collect();
        let mut required = required_by(&services);
        required.extend(required_for(&standby, services.len()));
        let mut hello = Hello {
            compatibility: Compatibility { protocol: 1, capabilities: vec![STANDBY.to_owned()], required },
            client_id: ClientId::new(&"c".repeat(63)).unwrap(),
            instance_id: InstanceId::random().unwrap(),
            proof: Some(Proof::Token(Secret::new("t".repeat(1024)))),
            start: Some(Secret::new("s".repeat(192))),
            standby,
            timestamp: 1_800_000_000,
            agent: AgentInfo {
                name: "adit".to_owned(),
                version: "10.10.10".to_owned(),
                os: "linux".to_owned(),
                host: Some("h".repeat(64)),
            },
            services,
            join: None,
        };
        assert!(json::encode(&hello).is_err(), "the test is to be about one that does not fit");
        trim_to_fit(&mut hello);
        assert!(json::encode(&hello).is_ok());
    }
}
