use std::collections::HashSet;

use super::*;
use crate::auth::LaneSecret;
use crate::link::carriers::mux;
use crate::link::carriers::mux::{MuxConfig, Side, WINDOW_GROWTH};
use crate::protocol::access::AccessPolicy;
use crate::protocol::login::{ServiceKind, ServiceOffer};
use crate::protocol::standby::Standby;
use crate::server::directory::authenticated::Authenticated;
use crate::server::directory::service::Service;
use crate::server::directory::tunnel::{Lane, RetireReason};
use crate::values::{InstanceId, LaneId};

/// A registry, and what agents do with it.
pub(crate) struct Fixture(pub(crate) Arc<Registry>);

pub(crate) fn login(client: &str, names: &[&str]) -> Authenticated {
    Authenticated::for_tests(client, InstanceId::random().unwrap(), names)
}

pub(crate) fn lane() -> Arc<Lane> {
    let (pipe, _) = tokio::io::duplex(64);
    let config = MuxConfig { max_streams: 10, yield_first: false, window_growth: WINDOW_GROWTH };
    let (session, _driver) = mux::session(Box::new(pipe), Side::Server, config);
    Lane::new(LaneId::next(), session, 10, 1000).0
}

impl Fixture {
    pub(crate) fn of(max_tunnels: usize) -> Self {
        Self(Registry::new(max_tunnels))
    }

    pub(crate) fn register(&self, login: Authenticated) -> Result<Registration, RegisterError> {
        let id = TunnelId::random().unwrap();
        self.0.register(login, |login| Tunnel::new(id, login, LaneSecret::random().unwrap(), 10))
    }

    pub(crate) fn up(&self, login: Authenticated) -> LaneGuard {
        self.register(login).unwrap().activate(lane()).unwrap()
    }

    pub(crate) fn refusal(&self, login: Authenticated) -> RegisterError {
        self.register(login).expect_err("there should have been no place")
    }

    pub(crate) fn holder(&self, name: &str) -> Option<TunnelId> {
        self.0.by_name(&Name::new(name).unwrap()).map(|offered| offered.tunnel.id())
    }
}

pub(crate) fn retired(guard: &LaneGuard) -> Option<RetireReason> {
    guard.tunnel().retired().borrow().clone()
}

#[test]
fn a_login_that_dies_before_its_first_lane_takes_nothing_over() {
    let fixture = Fixture::of(10);
    let older = fixture.up(login("alice", &["alice", "blog"]));
    let past = Authenticated::for_tests("alice", older.tunnel().instance(), &["alice"]);
    for newcomer in [login("alice", &["alice", "blog"]), past] {
        let newcomer = fixture.register(newcomer).unwrap();
        assert_eq!(fixture.0.len(), 2, "it has its place");
        assert_eq!(fixture.holder("blog"), Some(older.tunnel().id()));
        assert!(fixture.0.tunnel(newcomer.tunnel().client(), newcomer.tunnel().id()).is_none(), "nobody joins it yet");
        drop(newcomer);
        assert_eq!(retired(&older), None);
        assert_eq!(fixture.holder("alice"), Some(older.tunnel().id()));
        assert_eq!(fixture.0.len(), 1);
    }
    drop(older);
    assert!(fixture.0.is_empty() && !fixture.0.serves_any());
}

#[test]
fn the_first_lane_takes_all_names_over_at_once() {
    let fixture = Fixture::of(10);
    let (one, two) = (fixture.up(login("alice", &["a", "b"])), fixture.up(login("alice", &["c", "d"])));
    let newest = fixture.up(login("alice", &["a", "b", "c"]));
    let id = newest.tunnel().id();
    assert_eq!(["a", "b", "c", "d"].map(|name| fixture.holder(name) == Some(id)), [true, true, true, false]);
    assert_eq!(retired(&one), Some(RetireReason::Replaced { by: "test at 127.0.0.1".to_owned() }));
    assert_eq!(retired(&two), None, "it has a name left");
    // Whoever goes takes away only what is its own.
    drop((one, two));
    assert_eq!(fixture.holder("a"), Some(id));
    assert_eq!((fixture.holder("d"), fixture.0.len()), (None, 1));
}

#[test]
fn of_two_logins_that_race_the_agent_that_was_started_last_has_won() {
    let fixture = Fixture::of(10);
    let (first, second) = (login("alice", &["alice"]), login("alice", &["alice"]));
    let (first, second) = (fixture.register(first).unwrap(), fixture.register(second).unwrap());
    let second = second.activate(lane()).unwrap();
    let error = first.activate(lane()).expect_err("the other one was started later");
    assert_eq!(error, RegisterError::Replaced(Name::new("alice").unwrap(), second.tunnel().as_other()));
    assert_eq!((fixture.holder("alice"), retired(&second), fixture.0.len()), (id(&second), None, 1));
    // Of the same agent, the last to come up.
    let fixture = Fixture::of(10);
    let first = login("alice", &["alice"]);
    let (first, second) = (fixture.register(first.clone()).unwrap(), fixture.register(first).unwrap());
    let second = second.activate(lane()).unwrap();
    let first = first.activate(lane()).unwrap();
    assert_eq!((retired(&second), retired(&first)), (Some(RetireReason::Reconnected), None));
    assert_eq!(fixture.holder("alice"), id(&first));
}

#[test]
fn a_name_that_another_client_claimed_in_between_is_taken() {
    let fixture = Fixture::of(10);
    let alice = fixture.register(login("alice", &["alice", "shared"])).unwrap();
    let bob = fixture.up(login("bob", &["shared"]));
    let taken = RegisterError::NameTaken(Name::new("shared").unwrap());
    assert_eq!(alice.activate(lane()).expect_err("the name is bob's"), taken);
    assert_eq!(fixture.refusal(login("alice", &["alice", "shared"])), taken);
    assert_eq!((fixture.holder("alice"), fixture.0.len()), (None, 1));
    assert_eq!(fixture.holder("shared"), Some(bob.tunnel().id()));
}

#[test]
fn a_full_server_lets_in_only_who_replaces_its_own() {
    let fixture = Fixture::of(1);
    let mut current = fixture.up(login("alice", &["a", "b"]));
    for more in [login("bob", &["bob"]), login("alice", &["c"]), login("alice", &["a", "c"])] {
        assert_eq!(fixture.refusal(more), RegisterError::TooMany);
    }
    for same_agent in [false, true] {
        let replacement = match same_agent {
            true => Authenticated::for_tests("alice", current.tunnel().instance(), &["c"]),
            false => login("alice", &["a", "b"]),
        };
        let waiting = fixture.register(replacement.clone()).unwrap();
        assert_eq!(fixture.refusal(replacement.clone()), RegisterError::TooMany, "one at a time");
        let newer = waiting.activate(lane()).unwrap();
        assert_eq!(fixture.refusal(replacement), RegisterError::TooMany, "the older one is still on its way out");
        assert!(retired(&current).is_some());
        current = newer;
        assert_eq!(fixture.0.len(), 1);
    }
}

#[test]
fn a_client_has_only_so_many_tunnels() {
    let fixture = Fixture::of(1000);
    let names: Vec<String> = (0..=MAX_TUNNELS_OF_A_CLIENT).map(|at| format!("n{at}")).collect();
    let (last, rest) = names.split_last().unwrap();
    let mut held: Vec<LaneGuard> = rest.iter().map(|name| fixture.up(login("alice", &[name]))).collect();
    assert_eq!(fixture.refusal(login("alice", &[last])), RegisterError::TooManyOfClient);
    let _bob = fixture.up(login("bob", &["bob"]));
    let _replacement = fixture.up(login("alice", &[&names[0]]));
    drop(held.drain(..2));
    let _another = fixture.up(login("alice", &[last]));
}

#[test]
fn an_agent_that_missed_its_replacement_does_not_throw_the_newer_one_out() {
    let fixture = Fixture::of(10);
    let older = fixture.up(login("alice", &["alice"]));
    let again = |names| Authenticated::for_tests("alice", older.tunnel().instance(), names);
    let newer = fixture.up(login("alice", &["alice"]));
    let by = newer.tunnel().as_other();
    assert_eq!(fixture.refusal(again(&["alice"])), RegisterError::Replaced(Name::new("alice").unwrap(), by));
    assert_eq!(retired(&newer), None);
    // With another name it is welcome, but what it has lost stays where it is.
    let partly = fixture.up(again(&["alice", "blog"]));
    assert_eq!(fixture.holder("alice"), Some(newer.tunnel().id()));
    assert_eq!(fixture.holder("blog"), Some(partly.tunnel().id()));
    assert_eq!(retired(&newer), None);
    drop(partly);
    // A newer one that has gone stands in nobody's way.
    drop(newer);
    let back = fixture.up(again(&["alice"]));
    assert_eq!(fixture.holder("alice"), Some(back.tunnel().id()));
    // And then it can be replaced again.
    let last = fixture.up(login("alice", &["alice"]));
    assert_eq!(fixture.holder("alice"), Some(last.tunnel().id()));
    assert!(matches!(retired(&back), Some(RetireReason::Replaced { .. })));
}

#[test]
fn a_free_name_goes_back_to_the_newest_of_those_that_have_lost_it() {
    let fixture = Fixture::of(10);
    let oldest = fixture.up(login("alice", &["blog", "one"]));
    let older = fixture.up(login("alice", &["blog", "two"]));
    let other = fixture.up(login("bob", &["bob"]));
    let newest = fixture.up(login("alice", &["blog", "three"]));
    assert_eq!(fixture.holder("blog"), Some(newest.tunnel().id()));
    newest.tunnel().retire(RetireReason::Leaving);
    fixture.0.withdraw(newest.tunnel());
    assert_eq!(fixture.holder("blog"), Some(older.tunnel().id()));
    assert_eq!(fixture.holder("three"), None);
    // One that leaves is no heir.
    older.tunnel().retire(RetireReason::Leaving);
    fixture.0.withdraw(older.tunnel());
    assert_eq!(fixture.holder("blog"), Some(oldest.tunnel().id()));
    drop(newest);
    assert_eq!(fixture.holder("blog"), Some(oldest.tunnel().id()));
    drop((oldest, older));
    assert_eq!((fixture.holder("blog"), fixture.holder("bob")), (None, Some(other.tunnel().id())));
}

pub(crate) fn offer(name: &str) -> ServiceOffer {
    ServiceOffer::new(Name::new(name).unwrap(), ServiceKind::Http)
}

pub(crate) fn in_group(name: &str, group: &str) -> ServiceOffer {
    ServiceOffer { group: Some(Name::new(group).unwrap()), ..offer(name) }
}

pub(crate) fn at_domain(name: &str, domain: &str) -> ServiceOffer {
    ServiceOffer { domains: vec![Domain::new(domain).unwrap()], ..offer(name) }
}

pub(crate) fn offering(client: &str, offers: impl IntoIterator<Item = ServiceOffer>) -> Authenticated {
    Authenticated::offering_for_tests(client, InstanceId::random().unwrap(), offers)
}

pub(crate) fn service(offer: ServiceOffer) -> Arc<Service> {
    Service::for_tests(offer)
}

impl Fixture {
    pub(crate) fn at(&self, host: &str) -> Option<TunnelId> {
        self.0.by_domain(host).map(|offered| offered.tunnel.id())
    }
}

#[test]
fn agents_of_one_group_share_the_visitors() {
    let fixture = Fixture::of(10);
    let one = fixture.up(offering("alice", [in_group("web", "a")]));
    let two = fixture.up(offering("alice", [in_group("web", "a")]));
    assert_eq!((retired(&one), retired(&two)), (None, None));
    let seen: HashSet<TunnelId> = (0..4).filter_map(|_| fixture.holder("web")).collect();
    assert_eq!(seen, HashSet::from([one.tunnel().id(), two.tunnel().id()]), "idle ones take turns");
    let first = fixture.0.by_name(&Name::new("web").unwrap()).unwrap();
    let other = fixture.0.another(&first, &[first.tunnel.id()]).unwrap();
    assert_ne!(other.tunnel.id(), first.tunnel.id());
    assert!(fixture.0.another(&first, &[one.tunnel().id(), two.tunnel().id()]).is_none());
    // Another group, or none, takes the name from all of them.
    let newer = fixture.up(offering("alice", [in_group("web", "b")]));
    assert!(matches!(retired(&one), Some(RetireReason::Replaced { .. })));
    assert!(matches!(retired(&two), Some(RetireReason::Replaced { .. })));
    assert_eq!(fixture.holder("web"), Some(newer.tunnel().id()));
    let newest = fixture.up(login("alice", &["web"]));
    assert!(matches!(retired(&newer), Some(RetireReason::Replaced { .. })));
    drop((one, two, newer));
    assert_eq!(fixture.holder("web"), Some(newest.tunnel().id()));
}

#[test]
fn a_member_of_a_group_comes_back_as_itself() {
    let fixture = Fixture::of(10);
    let one = fixture.up(offering("alice", [in_group("web", "a")]));
    let two = fixture.up(offering("alice", [in_group("web", "a")]));
    let back = Authenticated::offering_for_tests("alice", one.tunnel().instance(), [in_group("web", "a")]);
    let back = fixture.up(back);
    assert_eq!((retired(&one), retired(&two)), (Some(RetireReason::Reconnected), None));
    drop(one);
    let seen: HashSet<TunnelId> = (0..4).filter_map(|_| fixture.holder("web")).collect();
    assert_eq!(seen, HashSet::from([back.tunnel().id(), two.tunnel().id()]));
    drop(back);
    assert_eq!(fixture.holder("web"), Some(two.tunnel().id()));
}

pub(crate) fn id(guard: &LaneGuard) -> Option<TunnelId> {
    Some(guard.tunnel().id())
}

#[test]
fn a_group_comes_back_as_a_whole() {
    let fixture = Fixture::of(10);
    let member = |own: &str| offering("alice", [in_group("web", "g"), offer(own)]);
    let members = [fixture.up(member("one")), fixture.up(member("two"))];
    let newer = fixture.up(login("alice", &["web"]));
    assert_eq!(fixture.holder("web"), id(&newer));
    drop(newer);
    let seen: HashSet<_> = (0..4).filter_map(|_| fixture.holder("web")).collect();
    assert_eq!(seen, members.iter().filter_map(id).collect());
}

#[test]
fn domains_go_back_and_are_taken_from_nobody() {
    let fixture = Fixture::of(10);
    let both = |name, own: &str| offering("alice", [at_domain(name, "d.example"), offer(own)]);
    let oldest = fixture.up(both("one", "keeps-it"));
    let newer = fixture.up(login("alice", &["one"]));
    let newest = fixture.up(both("three", "other"));
    drop(newer);
    assert_eq!(
        (fixture.holder("one"), fixture.at("d.example")),
        (id(&oldest), id(&newest)),
        "it has the name back alone"
    );
    drop(newest);
    assert_eq!(fixture.at("d.example"), id(&oldest));
}

#[test]
fn an_agent_that_comes_back_gives_up_its_names_before_others_are_looked_at() {
    let fixture = Fixture::of(10);
    let first = fixture.up(login("alice", &["b", "c"]));
    let second = fixture.up(login("alice", &["b"]));
    // The same agent with another name, which the first one had: that has the one from before back instead.
    let again = fixture.up(Authenticated::for_tests("alice", second.tunnel().instance(), &["c"]));
    assert_eq!((fixture.holder("b"), fixture.holder("c"), retired(&first)), (id(&first), id(&again), None));
    assert_eq!(retired(&second), Some(RetireReason::Reconnected));
}

#[test]
fn an_agent_is_not_told_of_names_that_it_has_lost() {
    let fixture = Fixture::of(10);
    let first = fixture.up(login("alice", &["a", "b"]));
    let newcomer = fixture.register(login("alice", &["b"])).unwrap();
    let [NameAssignment::Owned { taken_from: Some(from) }] = &fixture.0.preview(newcomer.tunnel())[..] else {
        panic!("it takes nothing over")
    };
    assert_eq!(*from, first.tunnel().as_other());
    let newer = newcomer.activate(lane()).unwrap();
    let back = Authenticated::for_tests("alice", first.tunnel().instance(), &["a", "b"]);
    let back = fixture.register(back).unwrap();
    let assignments = fixture.0.preview(back.tunnel());
    let [NameAssignment::Owned { taken_from: None }, NameAssignment::Standby(Standby { by: Some(by), .. })] =
        &assignments[..]
    else {
        panic!("{assignments:?}")
    };
    assert_eq!(*by, newer.tunnel().as_other());
    let back = back.activate(lane()).unwrap();
    assert_eq!(fixture.0.held(back.tunnel()).len(), 1);
    assert_eq!(fixture.0.standbys(back.tunnel()), [Standby { name: Name::new("b").unwrap(), by: Some(by.clone()) }]);
}

#[test]
fn a_request_goes_on_only_where_the_same_visitors_are_let_in() {
    let fixture = Fixture::of(10);
    let deny = AccessPolicy { deny: vec!["192.0.2.0/24".parse().unwrap()], ..AccessPolicy::default() };
    let _open = fixture.up(offering("alice", [in_group("web", "a")]));
    let first = fixture.0.by_name(&Name::new("web").unwrap()).unwrap();
    let _closed = fixture.up(offering("alice", [ServiceOffer { access: deny, ..in_group("web", "a") }]));
    assert!(fixture.0.another(&first, &[first.tunnel.id()]).is_none());
}

#[test]
fn a_domain_leads_where_its_service_is() {
    let fixture = Fixture::of(10);
    let alice = fixture.up(offering("alice", [at_domain("a", "blog.example"), at_domain("b", "*.wild.example")]));
    let id = Some(alice.tunnel().id());
    assert_eq!(
        (fixture.at("blog.example"), fixture.at("x.wild.example"), fixture.at("y.x.wild.example")),
        (id, id, id)
    );
    assert_eq!((fixture.at("x.blog.example"), fixture.at("wild.example"), fixture.at("example")), (None, None, None));
    let taken = RegisterError::DomainTaken(Domain::new("blog.example").unwrap());
    assert_eq!(fixture.refusal(offering("bob", [at_domain("c", "blog.example")])), taken);
    // Who takes the name takes the domain away too, even if it has no use for it.
    let _newer = fixture.up(login("alice", &["a"]));
    assert_eq!((fixture.at("blog.example"), fixture.at("x.wild.example")), (None, id));
    drop(alice);
    assert_eq!(fixture.at("x.wild.example"), None);
}

#[test]
fn a_change_takes_and_gives_names_in_one_step() {
    let fixture = Fixture::of(10);
    let alice = fixture.up(offering("alice", [offer("a"), at_domain("b", "b.example")]));
    let bob = fixture.up(login("bob", &["bob"]));
    let (tunnel, id) = (alice.tunnel(), Some(alice.tunnel().id()));
    let kept = Arc::clone(&tunnel.services()[0]);
    let grab = vec![Arc::clone(&kept), service(offer("c")), service(offer("bob"))];
    let taken = RegisterError::NameTaken(Name::new("bob").unwrap());
    assert_eq!(fixture.0.change_services(tunnel, grab), Err(taken));
    assert_eq!((fixture.holder("b"), fixture.holder("c"), fixture.at("b.example")), (id, None, id));
    fixture.0.change_services(tunnel, vec![kept, service(at_domain("c", "b.example"))]).unwrap();
    assert_eq!(["a", "b", "c", "bob"].map(|name| fixture.holder(name)), [id, None, id, Some(bob.tunnel().id())]);
    assert_eq!(fixture.at("b.example"), id);
    assert_eq!(fixture.0.held(tunnel).len(), 2);
    drop(alice);
    assert_eq!((fixture.holder("c"), fixture.at("b.example"), fixture.0.len()), (None, None, 1));
}

#[test]
fn a_change_takes_a_name_over_from_an_agent_that_was_started_earlier() {
    let fixture = Fixture::of(10);
    let (two, one) = (fixture.up(login("alice", &["b", "c"])), fixture.up(login("alice", &["a"])));
    let services = vec![service(offer("a")), service(offer("b"))];
    fixture.0.change_services(one.tunnel(), services).unwrap();
    assert_eq!((fixture.holder("b"), retired(&two)), (Some(one.tunnel().id()), None));
    assert_eq!(fixture.0.held(two.tunnel()).len(), 1, "c is left to it");
    // It takes none from one that was started later.
    fixture.0.change_services(two.tunnel(), vec![service(offer("a")), service(offer("c"))]).unwrap();
    assert_eq!((fixture.holder("a"), fixture.holder("c")), (id(&one), id(&two)));
    fixture.0.change_services(two.tunnel(), vec![service(offer("b")), service(offer("c"))]).unwrap();
    // What it does not offer any more goes back.
    fixture.0.change_services(one.tunnel(), vec![service(offer("c"))]).unwrap();
    let holders = (fixture.holder("a"), fixture.holder("b"), fixture.holder("c"));
    assert_eq!((holders, retired(&two)), ((None, Some(two.tunnel().id()), Some(one.tunnel().id())), None));
    fixture.0.change_services(one.tunnel(), vec![service(offer("b")), service(offer("c"))]).unwrap();
    assert!(matches!(retired(&two), Some(RetireReason::Replaced { .. })));
}

#[test]
fn the_operator_ends_what_drains_already() {
    let fixture = Fixture::of(10);
    for last in [RetireReason::Revoked, RetireReason::Disconnected] {
        let tunnel = fixture.up(login("alice", &["alice"]));
        tunnel.tunnel().retire(RetireReason::Leaving);
        tunnel.tunnel().retire(RetireReason::Reconnected);
        assert_eq!(retired(&tunnel), Some(RetireReason::Leaving), "the first reason counts");
        tunnel.tunnel().retire(last.clone());
        tunnel.tunnel().retire(RetireReason::Draining);
        assert_eq!(retired(&tunnel), Some(last));
    }
}

#[test]
fn another_number_of_tunnels_counts_from_the_next_login_on() {
    let fixture = Fixture::of(1);
    let alice = fixture.up(login("alice", &["alice"]));
    assert_eq!(fixture.refusal(login("bob", &["bob"])), RegisterError::TooMany);
    fixture.0.set_max_tunnels(2);
    let bob = fixture.up(login("bob", &["bob"]));
    fixture.0.set_max_tunnels(1);
    assert_eq!((fixture.0.len(), retired(&alice), retired(&bob)), (2, None, None), "both stay");
    assert_eq!(fixture.refusal(login("carol", &["carol"])), RegisterError::TooMany);
    drop(alice);
    assert_eq!(fixture.refusal(login("carol", &["carol"])), RegisterError::TooMany);
    drop(bob);
    assert!(fixture.register(login("carol", &["carol"])).is_ok());
}
