//! Which of several agents has a name: agents that can stand by, and time.

use std::collections::HashSet;

use proptest::prelude::*;
use tokio::time::advance;

use super::tests::{Fixture, at_domain, id, in_group, lane, login, offer, offering, retired, service};
use super::*;
use crate::protocol::login::ServiceOffer;
use crate::protocol::standby::Standby;
use crate::server::directory::authenticated::Authenticated;
use crate::server::directory::tunnel::RetireReason;
use crate::values::InstanceId;

fn standby(names: &[&str]) -> Authenticated {
    login("alice", names).standing_by(&[])
}

/// The agent of `guard`, logging in again; `waits_for` is what it says that it stands by for.
fn again(guard: &LaneGuard, waits_for: &[&str]) -> Authenticated {
    let names: Vec<String> = guard.tunnel().services().iter().map(|service| service.name().to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Authenticated::for_tests("alice", guard.tunnel().instance(), &names).standing_by(waits_for)
}

/// One moment later than a free name is kept.
async fn wait_for_free_names(fixture: &Fixture) {
    advance(RESERVATION_TIME).await;
    fixture.0.release_expired();
}

#[tokio::test(start_paused = true)]
async fn a_laptop_that_wakes_stands_by_until_the_desktop_is_gone_for_long_enough() {
    for heartbeat_missed in [false, true] {
        let fixture = Fixture::of(10);
        let mut laptop = fixture.up(standby(&["alice"]));
        if heartbeat_missed {
            let woken = again(&laptop, &[]);
            drop(laptop);
            let desktop = fixture.up(standby(&["alice"]));
            laptop = fixture.up(woken);
            assert_eq!((fixture.holder("alice"), retired(&laptop)), (id(&desktop), None), "it stands by");
            drop(desktop);
        } else {
            let desktop = fixture.up(standby(&["alice"]));
            assert_eq!((fixture.holder("alice"), retired(&laptop)), (id(&desktop), None), "it stands by");
            drop(desktop);
        }
        advance(RESERVATION_TIME - Duration::from_millis(1)).await;
        assert!(fixture.0.release_expired(), "it is still kept");
        assert_eq!(fixture.holder("alice"), None);
        advance(Duration::from_millis(1)).await;
        assert!(!fixture.0.release_expired());
        assert_eq!(fixture.holder("alice"), id(&laptop));
        // A desktop that starts again is newer still.
        let desktop = fixture.up(standby(&["alice"]));
        assert_eq!((fixture.holder("alice"), retired(&laptop)), (id(&desktop), None));
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_comes_back_has_its_name_at_once() {
    let fixture = Fixture::of(10);
    let laptop = fixture.up(standby(&["alice"]));
    let desktop = fixture.up(standby(&["alice"]));
    for waits in [Duration::from_secs(5), RESERVATION_TIME * 2] {
        let back = again(&desktop, &[]);
        desktop.tunnel().retire(RetireReason::Leaving);
        fixture.0.withdraw(desktop.tunnel());
        advance(waits).await;
        fixture.0.release_expired();
        assert_eq!(fixture.holder("alice"), if waits < RESERVATION_TIME { None } else { id(&laptop) });
        let back = fixture.up(back);
        assert_eq!((fixture.holder("alice"), retired(&laptop)), (id(&back), None));
        back.tunnel().retire(RetireReason::Leaving);
        fixture.0.withdraw(back.tunnel());
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_of_the_server_the_owner_has_its_name_in_either_order() {
    let before = Fixture::of(10);
    let laptop = before.up(standby(&["alice"]));
    let desktop = before.up(standby(&["alice"]));
    for laptop_is_first in [false, true] {
        let fixture = Fixture::of(10);
        if laptop_is_first {
            let laptop = fixture.up(again(&laptop, &["alice"]));
            assert_eq!(fixture.holder("alice"), None, "its owner is on its way, perhaps");
            let desktop = fixture.up(again(&desktop, &[]));
            assert_eq!((fixture.holder("alice"), retired(&laptop)), (id(&desktop), None));
        } else {
            let desktop = fixture.up(again(&desktop, &[]));
            let laptop = fixture.up(again(&laptop, &["alice"]));
            assert_eq!((fixture.holder("alice"), retired(&laptop)), (id(&desktop), None));
        }
    }
    // If the owner is gone for good, the one that stands by has it in the end.
    let fixture = Fixture::of(10);
    let laptop = fixture.up(again(&laptop, &["alice"]));
    let back = fixture.up(again(&laptop, &["alice"]));
    assert_eq!(fixture.holder("alice"), None, "to come again does not make it an owner");
    wait_for_free_names(&fixture).await;
    assert_eq!(fixture.holder("alice"), id(&back));
}

#[tokio::test(start_paused = true)]
async fn an_agent_with_names_left_has_a_free_one_back_after_the_same_time() {
    let fixture = Fixture::of(10);
    let both = || [at_domain("blog", "blog.example"), offer("alice")];
    let older = fixture.up(offering("alice", both()).standing_by(&[]));
    let newer = fixture.up(offering("alice", [at_domain("blog", "blog.example")]).standing_by(&[]));
    let by = newer.tunnel().as_other();
    assert_eq!(fixture.0.standbys(older.tunnel()), [Standby { name: "blog".parse().unwrap(), by: Some(by) }]);
    assert_eq!((fixture.holder("alice"), fixture.at("blog.example")), (id(&older), id(&newer)));
    // It offers another name instead.
    fixture.0.change_services(newer.tunnel(), vec![service(offer("shop"))]).unwrap();
    assert_eq!((fixture.holder("blog"), fixture.at("blog.example")), (None, None));
    wait_for_free_names(&fixture).await;
    assert_eq!((fixture.holder("blog"), fixture.at("blog.example")), (id(&older), id(&older)));
}

#[tokio::test(start_paused = true)]
async fn one_that_stands_by_keeps_no_place_from_others() {
    let fixture = Fixture::of(2);
    let first = fixture.up(standby(&["alice"]));
    let second = fixture.up(standby(&["alice"]));
    assert_eq!(retired(&first), None, "there is room");
    let third = fixture.up(standby(&["alice"]));
    assert!(matches!(retired(&first), Some(RetireReason::Replaced { .. })), "the oldest makes way");
    assert_eq!((retired(&second), fixture.holder("alice")), (None, id(&third)));
    assert_eq!(fixture.refusal(again(&first, &["alice"])), RegisterError::TooMany);
    drop(first);
    assert_eq!(fixture.refusal(again(&second, &["blog"])), RegisterError::TooMany, "one at a time");
}

#[test]
fn an_older_agent_that_cannot_stand_by_is_told_who_has_the_name() {
    let fixture = Fixture::of(10);
    let older = fixture.up(login("alice", &["alice"]));
    let newer = fixture.up(standby(&["alice"]));
    assert_eq!(retired(&older), Some(RetireReason::Replaced { by: "test at 127.0.0.1".to_owned() }));
    let back = Authenticated::for_tests("alice", older.tunnel().instance(), &["alice"]);
    let error = fixture.refusal(back);
    assert_eq!(error, RegisterError::Replaced("alice".parse().unwrap(), newer.tunnel().as_other()));
    assert!(error.refused().message.starts_with("test at 127.0.0.1 was started later"), "{}", error.refused().message);
}

/// One of the agents of the property below.
#[derive(Debug, Clone)]
struct Plan {
    names: Vec<&'static str>,
    group: Option<&'static str>,
    can_stand_by: bool,
}

#[derive(Debug, Clone)]
enum Step {
    /// The agent at this place starts, or comes back.
    LogIn(usize),
    /// Its connection is lost, or it leaves in order.
    Lose(usize, bool),
    Wait(u64),
}

const NAMES: [&str; 2] = ["a", "b"];

fn plan() -> impl Strategy<Value = Plan> {
    let names = prop_oneof![Just(vec!["a"]), Just(vec!["b"]), Just(vec!["a", "b"])];
    let group = prop_oneof![3 => Just(None), 1 => Just(Some("g"))];
    let can_stand_by = prop_oneof![4 => Just(true), 1 => Just(false)];
    (names, group, can_stand_by).prop_map(|(names, group, can_stand_by)| Plan { names, group, can_stand_by })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4_usize).prop_map(Step::LogIn),
        3 => (0..4_usize, any::<bool>()).prop_map(|(at, in_order)| Step::Lose(at, in_order)),
        2 => (1..40_u64).prop_map(Step::Wait),
    ]
}

/// Tunnels that serve and offer `name`, the newest start last.
fn candidates<'g>(up: &'g [Option<LaneGuard>], name: &str) -> Vec<&'g Arc<Tunnel>> {
    let tunnels = up.iter().flatten().map(LaneGuard::tunnel).filter(|tunnel| tunnel.is_serving());
    let offers = |tunnel: &&Arc<Tunnel>| tunnel.services().iter().any(|service| service.name().as_str() == name);
    let mut found: Vec<_> = tunnels.filter(offers).collect();
    found.sort_by_key(|tunnel| tunnel.start());
    found
}

fn group_of(tunnel: &Tunnel) -> Option<Name> {
    tunnel.services()[0].offer().group.clone()
}

proptest! {
    /// Whatever logs in, is lost and comes back, a name leads to the agent that was started last of those that are there,
    /// and to those that share it. A name that leads nowhere although it is offered is kept for a later start.
    #[test]
    fn the_newest_start_has_the_name(
        plans in proptest::collection::vec(plan(), 4),
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let fixture = Fixture::of(100);
            let instances: Vec<InstanceId> = plans.iter().map(|_| InstanceId::random().unwrap()).collect();
            let mut up: Vec<Option<LaneGuard>> = plans.iter().map(|_| None).collect();
            let mut last_owner: [u64; 2] = [0, 0];
            let mut free_since = [tokio::time::Instant::now(); 2];
            for step in steps {
                match step {
                    Step::LogIn(at) => {
                        let plan = &plans[at];
                        let offer = |name: &&str| match plan.group {
                            Some(group) => in_group(name, group),
                            None => offer(name),
                        };
                        let offers: Vec<ServiceOffer> = plan.names.iter().map(offer).collect();
                        let login = Authenticated::offering_for_tests("alice", instances[at], offers);
                        let login = if plan.can_stand_by { login.standing_by(&[]) } else { login };
                        match fixture.register(login) {
                            Ok(registration) => up[at] = Some(registration.activate(lane()).unwrap()),
                            Err(RegisterError::Replaced(..) | RegisterError::Reserved(_)) => {
                                prop_assert!(!plan.can_stand_by);
                            }
                            Err(error) => prop_assert!(false, "{:?}", error),
                        }
                    }
                    Step::Lose(at, in_order) => {
                        if let Some(guard) = up[at].take() && in_order {
                            guard.tunnel().retire(RetireReason::Leaving);
                            fixture.0.withdraw(guard.tunnel());
                        }
                    }
                    Step::Wait(seconds) => {
                        advance(Duration::from_secs(seconds)).await;
                        fixture.0.release_expired();
                    }
                }
                for (at, name) in NAMES.iter().enumerate() {
                    let candidates = candidates(&up, name);
                    let holders: HashSet<TunnelId> =
                        fixture.0.names.members(&name.parse().unwrap()).iter().map(|held| held.tunnel.id()).collect();
                    let Some(newest) = candidates.last() else {
                        prop_assert!(holders.is_empty());
                        continue;
                    };
                    if holders.is_empty() {
                        prop_assert!(newest.can_stand_by());
                        prop_assert!(newest.start() < last_owner[at], "its owner was started later");
                        prop_assert!(free_since[at].elapsed() < RESERVATION_TIME, "it was kept for too long");
                        continue;
                    }
                    let group = group_of(newest);
                    let shares = |tunnel: &&&Arc<Tunnel>| {
                        tunnel.id() == newest.id() || (group.is_some() && group_of(tunnel) == group)
                    };
                    let expected: HashSet<TunnelId> =
                        candidates.iter().filter(shares).map(|tunnel| tunnel.id()).collect();
                    prop_assert_eq!(holders, expected);
                    (last_owner[at], free_since[at]) = (newest.start(), tokio::time::Instant::now());
                }
            }
            Ok(())
        })?;
    }
}
