//! Where services lead, and how that changes while streams are served.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use super::local::{self, Local, LocalTls};
use super::rules;
use crate::agent::options::Service;
use crate::protocol::exchange::RequestHead;
use crate::protocol::login::{ServiceKind, ServiceOffer};
use crate::transport::tls::TlsError;
use crate::values::Name;

/// What an agent offers at one time, with everything prepared that can fail.
#[derive(Debug)]
pub(super) struct Offer {
    /// Counts the changes; 0 is what the agent began with.
    pub(super) number: u64,
    pub(super) services: Arc<[Service]>,
    tls: LocalTls,
}

impl Offer {
    /// Reads the files that services name.
    pub(super) fn prepare(number: u64, services: Vec<Service>) -> Result<Self, TlsError> {
        Ok(Self { number, tls: local::prepare_tls(&services)?, services: services.into() })
    }

    /// What the server is told of it.
    pub(super) fn for_server(&self) -> Vec<ServiceOffer> {
        self.services.iter().map(Service::offer).collect()
    }

    fn service(&self, name: &Name) -> Option<&Service> {
        self.services.iter().find(|service| service.name == *name)
    }
}

/// Where one service leads: to its own application, or by rules to others.
#[derive(Debug)]
pub(super) struct Leads {
    service: Service,
    /// One for each application, however many rules lead there. The first is the service's own.
    locals: Vec<Local>,
    /// For each rule, which of them.
    by_rule: Vec<usize>,
}

impl Leads {
    /// `None` if an address can be in no request.
    fn new(service: &Service, tls: &LocalTls, connect_timeout: Duration, tasks: &TaskTracker) -> Option<Self> {
        let (mut locals, mut of) = (Vec::new(), Vec::new());
        let mut places = Vec::new();
        for url in service.locals() {
            let place = (url.scheme(), &url.place);
            let known = places.iter().position(|other| *other == place);
            of.push(known.unwrap_or(places.len()));
            if known.is_none() {
                places.push(place);
                locals.push(Local::new(service, url, tls.get(&service.name), connect_timeout, tasks)?);
            }
        }
        Some(Self { service: service.clone(), locals, by_rule: of.split_off(1) })
    }

    pub(super) fn kind(&self) -> ServiceKind {
        self.service.kind
    }

    /// The service's own application.
    pub(super) fn own(&self) -> &Local {
        &self.locals[0]
    }

    /// The application that gets this request, which is changed as the rule for it says.
    pub(super) fn choose(&self, head: &mut RequestHead) -> &Local {
        let rules = &self.service.rules;
        let Some(at) = rules::first_that_fits(rules, head) else { return self.own() };
        if let (true, Some(path)) = (rules[at].strip_prefix, &rules[at].path) {
            rules::strip(head, path);
        }
        &self.locals[self.by_rule[at]]
    }
}

type Table = HashMap<Name, Arc<Leads>>;

/// Where all services of a tunnel lead. What has been chosen goes on, whatever changes.
#[derive(Debug)]
pub(super) struct AllLeads {
    now: Mutex<Arc<Table>>,
    /// What the server has agreed to: what a change that it refuses goes back to.
    agreed: Mutex<Arc<Table>>,
    connect_timeout: Duration,
    tasks: TaskTracker,
}

impl AllLeads {
    /// Connections to local applications run on `tasks`.
    pub(super) fn new(offer: &Offer, connect_timeout: Duration, tasks: &TaskTracker) -> Self {
        let (now, agreed) = <(Mutex<Arc<Table>>, Mutex<Arc<Table>>)>::default();
        let leads = Self { now, agreed, connect_timeout, tasks: tasks.clone() };
        leads.settle(offer);
        leads
    }

    pub(super) fn get(&self, name: &Name) -> Option<Arc<Leads>> {
        self.now.lock().get(name).cloned()
    }

    /// The server is about to be told of `after` in place of `before`: new services are ready, those that go are still
    /// there. A service that lets in other visitors *and* leads elsewhere is not offered in between: nobody is to meet
    /// the one application on the other's conditions.
    pub(super) fn begin(&self, before: &Offer, after: &Offer) {
        let mut table = Table::clone(&self.agreed.lock());
        for service in after.services.iter() {
            match before.service(&service.name) {
                Some(old) if old.leads_like(service) => {}
                Some(old) if old.offer() != service.offer() => {
                    table.remove(&service.name);
                }
                _ => self.put(&mut table, service, &after.tls),
            }
        }
        *self.now.lock() = Arc::new(table);
    }

    /// From now on it is `offer`, and nothing else. What leads where it did keeps its connections.
    pub(super) fn settle(&self, offer: &Offer) {
        let now = Arc::clone(&self.now.lock());
        let agreed = Arc::clone(&self.agreed.lock());
        let mut table = Table::new();
        for service in offer.services.iter() {
            let is_same = |leads: &&Arc<Leads>| leads.service.leads_like(service);
            match [&now, &agreed].into_iter().find_map(|table| table.get(&service.name).filter(is_same)) {
                Some(leads) => {
                    table.insert(service.name.clone(), Arc::clone(leads));
                }
                None => self.put(&mut table, service, &offer.tls),
            }
        }
        let table = Arc::new(table);
        *self.agreed.lock() = Arc::clone(&table);
        *self.now.lock() = table;
    }

    /// The server has refused what was begun.
    pub(super) fn go_back(&self) {
        let agreed = Arc::clone(&self.agreed.lock());
        *self.now.lock() = agreed;
    }

    fn put(&self, table: &mut Table, service: &Service, tls: &LocalTls) {
        match Leads::new(service, tls, self.connect_timeout, &self.tasks) {
            Some(leads) => table.insert(service.name.clone(), Arc::new(leads)),
            // What cannot be asked is not offered.
            None => table.remove(&service.name),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::options::AgentOptions;
    use crate::schema::{Environment, Flags};

    fn offer(services: &str) -> Offer {
        let text = format!("servers = ['a.example']\nclient_id = 'alice'\ntoken = 'adit_x'\n{services}");
        let file = std::path::Path::new("agent.toml");
        let config = AgentOptions::from_text(file, &text, &Environment::default(), &Flags::new()).unwrap();
        Offer::prepare(1, config.services).unwrap()
    }

    fn all(offer: &Offer) -> AllLeads {
        AllLeads::new(offer, Duration::from_secs(5), &TaskTracker::new())
    }

    /// Where `name` leads, if it is offered.
    fn place(leads: &AllLeads, name: &str) -> Option<String> {
        leads.get(&Name::new(name).unwrap()).map(|leads| leads.own().url.text.clone())
    }

    fn service(name: &str, local: &str, more: &str) -> String {
        format!("[[services]]\nname = '{name}'\nlocal = {local}\n{more}\n")
    }

    #[test]
    fn an_application_has_one_pool_however_many_rules_lead_there() {
        let rules = "[[services.rules]]\npath = '/a'\nlocal = 'http://localhost:3000'\n\
                     [[services.rules]]\npath = '/b'\nlocal = 4000\n[[services.rules]]\npath = '/c'\nlocal = 4000";
        let leads = all(&offer(&service("alice", "3000", rules))).get(&Name::new("alice").unwrap()).unwrap();
        assert_eq!((leads.locals.len(), leads.by_rule.as_slice()), (2, [0, 1, 1].as_slice()));
    }

    #[test]
    fn what_is_new_comes_before_the_answer_and_what_goes_stays_until_then() {
        let before = offer(&(service("gone", "1", "") + &service("same", "2", "") + &service("moved", "3", "")));
        let after = offer(&(service("same", "2", "") + &service("moved", "4", "") + &service("new", "5", "")));
        let leads = all(&before);
        let same = leads.get(&Name::new("same").unwrap()).unwrap();
        let places = || ["gone", "same", "moved", "new"].map(|name| place(&leads, name));
        let some = |text: &str| Some(text.to_owned());
        leads.begin(&before, &after);
        assert_eq!(places(), [some("1"), some("2"), some("4"), some("5")]);
        leads.settle(&after);
        assert_eq!(places(), [None, some("2"), some("4"), some("5")]);
        assert!(Arc::ptr_eq(&same, &leads.get(&Name::new("same").unwrap()).unwrap()), "it has lost its connections");
    }

    #[test]
    fn a_refused_change_leaves_everything_as_it_was() {
        let before = offer(&(service("alice", "1", "") + &service("gone", "2", "")));
        let after = offer(&(service("alice", "3", "") + &service("new", "4", "")));
        let leads = all(&before);
        let alice = leads.get(&Name::new("alice").unwrap()).unwrap();
        leads.begin(&before, &after);
        leads.go_back();
        assert_eq!(
            ["alice", "gone", "new"].map(|name| place(&leads, name)),
            [Some("1".into()), Some("2".into()), None]
        );
        assert!(Arc::ptr_eq(&alice, &leads.get(&Name::new("alice").unwrap()).unwrap()));
    }

    #[test]
    fn nobody_meets_an_application_on_the_conditions_of_another() {
        let closed = "access.allow = ['192.0.2.1']";
        let before = offer(&service("alice", "1", closed));
        let elsewhere = offer(&service("alice", "2", ""));
        let leads = all(&before);
        leads.begin(&before, &elsewhere);
        assert_eq!(place(&leads, "alice"), None);
        leads.settle(&elsewhere);
        assert_eq!(place(&leads, "alice").as_deref(), Some("2"));
        // The same application on other conditions: nothing is in the way.
        let opened = offer(&service("alice", "1", ""));
        let leads = all(&before);
        leads.begin(&before, &opened);
        assert_eq!(place(&leads, "alice").as_deref(), Some("1"));
    }
}
