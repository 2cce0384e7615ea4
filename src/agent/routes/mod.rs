//! Routes each request to a backend of its service. Routes change while streams are served.

pub(in crate::agent) mod offer;
mod rules;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::agent::backend::local::LocalTls;
use crate::agent::backend::{Backend, BackendContext};
use crate::agent::options::Service;
use crate::protocol::exchange::RequestHead;
use crate::protocol::login::ServiceKind;
use crate::values::Name;
use offer::Offer;

/// The routes of one service: to its default backend, or by rules to others.
#[derive(Debug)]
pub(in crate::agent) struct Route {
    service: Service,
    /// One for each application, however many rules name it. The first is the default.
    backends: Vec<Backend>,
    /// The index of each rule's backend.
    by_rule: Vec<usize>,
}

impl Route {
    /// Returns `None` if no request can name one of the addresses.
    fn new(service: &Service, tls: &LocalTls, context: &BackendContext) -> Option<Self> {
        let (mut backends, mut index_of) = (Vec::new(), Vec::new());
        let mut places = Vec::new();
        for url in service.locals() {
            let place = (url.scheme(), &url.place);
            let known = places.iter().position(|other| *other == place);
            index_of.push(known.unwrap_or(places.len()));
            if known.is_none() {
                places.push(place);
                backends.push(Backend::new(service, url, tls, context)?);
            }
        }
        Some(Self { service: service.clone(), backends, by_rule: index_of.split_off(1) })
    }

    pub(in crate::agent) fn kind(&self) -> ServiceKind {
        self.service.kind
    }

    /// Returns how long a stream of the service may be silent, if it says so.
    pub(in crate::agent) fn quiet_timeout(&self) -> Option<Duration> {
        self.service.quiet_timeout
    }

    /// Returns the backend of requests that no rule matches.
    pub(in crate::agent) fn default_backend(&self) -> &Backend {
        &self.backends[0]
    }

    /// Returns the backend for this request, and changes the request as its rule says.
    pub(in crate::agent) fn choose(&self, head: &mut RequestHead) -> &Backend {
        let rules = &self.service.rules;
        let Some(at) = rules::first_match(rules, head) else { return self.default_backend() };
        if let (true, Some(path)) = (rules[at].strip_prefix, &rules[at].path) {
            rules::strip(head, path);
        }
        &self.backends[self.by_rule[at]]
    }
}

type RouteTable = HashMap<Name, Arc<Route>>;

/// The routes of all services of a tunnel. A change does not affect requests that were routed before it.
#[derive(Debug)]
pub(in crate::agent) struct Routes {
    current: Mutex<Arc<RouteTable>>,
    /// What the server has accepted: a change that it refuses is reverted to this.
    accepted: Mutex<Arc<RouteTable>>,
    context: BackendContext,
}

impl Routes {
    /// Routes the services of `offer` to backends that are made with `context`.
    pub(in crate::agent) fn new(offer: &Offer, context: BackendContext) -> Self {
        let routes = Self { current: Mutex::default(), accepted: Mutex::default(), context };
        routes.settle(offer);
        routes
    }

    pub(in crate::agent) fn get(&self, name: &Name) -> Option<Arc<Route>> {
        self.current.lock().get(name).cloned()
    }

    /// Begins a change from `before` to `after`, of which the server will be told next: adds new services and keeps removed
    /// ones. A service whose access conditions *and* backend change is not served in between: no visitor reaches one
    /// application on the conditions of the other.
    pub(in crate::agent) fn begin(&self, before: &Offer, after: &Offer) {
        let mut table = RouteTable::clone(&self.accepted.lock());
        for service in after.services.iter() {
            match before.service(&service.name) {
                Some(old) if old.leads_like(service) => {}
                Some(old) if old.offer() != service.offer() => {
                    table.remove(&service.name);
                }
                _ => self.put(&mut table, service, &after.tls),
            }
        }
        *self.current.lock() = Arc::new(table);
    }

    /// Completes a change: routes lead to the services of `offer` alone. Unchanged routes keep their connections.
    pub(in crate::agent) fn settle(&self, offer: &Offer) {
        let current = Arc::clone(&self.current.lock());
        let accepted = Arc::clone(&self.accepted.lock());
        let mut table = RouteTable::new();
        for service in offer.services.iter() {
            let is_same = |route: &&Arc<Route>| route.service.leads_like(service);
            match [&current, &accepted].into_iter().find_map(|table| table.get(&service.name).filter(is_same)) {
                Some(route) => {
                    table.insert(service.name.clone(), Arc::clone(route));
                }
                None => self.put(&mut table, service, &offer.tls),
            }
        }
        let table = Arc::new(table);
        *self.accepted.lock() = Arc::clone(&table);
        *self.current.lock() = table;
    }

    /// Reverts a change that the server has refused.
    pub(in crate::agent) fn revert(&self) {
        let accepted = Arc::clone(&self.accepted.lock());
        *self.current.lock() = accepted;
    }

    fn put(&self, table: &mut RouteTable, service: &Service, tls: &LocalTls) {
        match Route::new(service, tls, &self.context) {
            Some(route) => table.insert(service.name.clone(), Arc::new(route)),
            // A service that no request can reach is not offered.
            None => table.remove(&service.name),
        };
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::agent::options::AgentOptions;
    use crate::schema::{Environment, Flags};

    fn offer(services: &str) -> Offer {
        let text = format!("servers = ['a.example']\nclient_id = 'alice'\ntoken = 'adit_x'\n{services}");
        let file = std::path::Path::new("agent.toml");
        let config = AgentOptions::from_text(file, &text, &Environment::default(), &Flags::new()).unwrap();
        Offer::prepare(1, config.services).unwrap()
    }

    fn all(offer: &Offer) -> Routes {
        Routes::new(
            offer,
            BackendContext {
                connect_timeout: Duration::from_secs(5),
                tasks: TaskTracker::new(),
                in_process: Arc::default(),
            },
        )
    }

    /// Where `name` routes, if it is offered.
    fn place(routes: &Routes, name: &str) -> Option<String> {
        routes
            .get(&Name::new(name).unwrap())
            .and_then(|route| Some(route.default_backend().as_local()?.url.text.clone()))
    }

    fn service(name: &str, local: &str, more: &str) -> String {
        format!("[[services]]\nname = '{name}'\nlocal = {local}\n{more}\n")
    }

    #[test]
    fn an_application_has_one_pool_however_many_rules_lead_there() {
        let rules = "[[services.rules]]\npath = '/a'\nlocal = 'http://localhost:3000'\n\
                     [[services.rules]]\npath = '/b'\nlocal = 4000\n[[services.rules]]\npath = '/c'\nlocal = 4000";
        let routes = all(&offer(&service("alice", "3000", rules))).get(&Name::new("alice").unwrap()).unwrap();
        assert_eq!((routes.backends.len(), routes.by_rule.as_slice()), (2, [0, 1, 1].as_slice()));
    }

    #[test]
    fn what_is_new_comes_before_the_answer_and_what_goes_stays_until_then() {
        let before = offer(&(service("gone", "1", "") + &service("same", "2", "") + &service("moved", "3", "")));
        let after = offer(&(service("same", "2", "") + &service("moved", "4", "") + &service("new", "5", "")));
        let routes = all(&before);
        let same = routes.get(&Name::new("same").unwrap()).unwrap();
        let places = || ["gone", "same", "moved", "new"].map(|name| place(&routes, name));
        let some = |text: &str| Some(text.to_owned());
        routes.begin(&before, &after);
        assert_eq!(places(), [some("1"), some("2"), some("4"), some("5")]);
        routes.settle(&after);
        assert_eq!(places(), [None, some("2"), some("4"), some("5")]);
        assert!(Arc::ptr_eq(&same, &routes.get(&Name::new("same").unwrap()).unwrap()), "it has lost its connections");
    }

    #[test]
    fn a_refused_change_leaves_everything_as_it_was() {
        let before = offer(&(service("alice", "1", "") + &service("gone", "2", "")));
        let after = offer(&(service("alice", "3", "") + &service("new", "4", "")));
        let routes = all(&before);
        let alice = routes.get(&Name::new("alice").unwrap()).unwrap();
        routes.begin(&before, &after);
        routes.revert();
        assert_eq!(
            ["alice", "gone", "new"].map(|name| place(&routes, name)),
            [Some("1".into()), Some("2".into()), None]
        );
        assert!(Arc::ptr_eq(&alice, &routes.get(&Name::new("alice").unwrap()).unwrap()));
    }

    #[test]
    fn nobody_meets_an_application_on_the_conditions_of_another() {
        let closed = "access.allow = ['192.0.2.1']";
        let before = offer(&service("alice", "1", closed));
        let elsewhere = offer(&service("alice", "2", ""));
        let routes = all(&before);
        routes.begin(&before, &elsewhere);
        assert_eq!(place(&routes, "alice"), None);
        routes.settle(&elsewhere);
        assert_eq!(place(&routes, "alice").as_deref(), Some("2"));
        // The same application on other conditions: nothing is in the way.
        let opened = offer(&service("alice", "1", ""));
        let routes = all(&before);
        routes.begin(&before, &opened);
        assert_eq!(place(&routes, "alice").as_deref(), Some("1"));
    }
}
