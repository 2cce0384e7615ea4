//! Temporary states: a clients file that is being written, servers that disagree, tokens that are written later.

use std::time::{Duration, Instant};

use adit::agent::{GivenUp, State};
use adit::protocol::login::Refusal;
use adit::tenants::file_store::edit_file::edit_file;
use adit::values::TunnelId;

use crate::harness::apps;
use crate::harness::puppet::{Puppet, hello, log_in};
use crate::harness::stand_in::StandIn;
use crate::harness::visitor::fetch;
use crate::harness::{TestAgent, TestServer, clients, clients_file, name, replace_file, service, soon, until};

/// What tunnels have that a reload would close.
const GRACE: Duration = Duration::from_secs(5);

/// The clients file as it is halfway: alice and bob are not listed yet.
fn first_half() -> String {
    format!("[clients.carol]{}", clients().split_once("[clients.carol]").unwrap().1)
}

/// A server and agents of three clients, of which most are not in the first half of the file.
struct Crowd {
    server: TestServer,
    agents: Vec<Puppet>,
}

impl Crowd {
    async fn gather() -> Self {
        let server = TestServer::start(&[]);
        let mut agents = Vec::new();
        for (client, name) in [("alice", "alice"), ("alice", "blog"), ("bob", "bob"), ("carol", "carol")] {
            agents.push(Puppet::connect(&server, &hello(client, &[name])).await);
        }
        until("four tunnels", &server.registry, || server.registry.len() == 4).await;
        Self { server, agents }
    }

    fn tunnels(&self) -> Vec<TunnelId> {
        let mut ids: Vec<_> = self.server.registry.all().iter().map(|tunnel| tunnel.id()).collect();
        ids.sort_by_key(ToString::to_string);
        ids
    }
}

#[tokio::test]
async fn a_file_written_in_two_steps_closes_no_tunnel_and_lets_no_stranger_in() {
    let crowd = Crowd::gather().await;
    let (server, before) = (&crowd.server, crowd.tunnels());
    let file = server.dir().path().join("clients.toml");
    replace_file(&file, &first_half());
    let refused = log_in(server, &hello("bob", &["bob"])).await.expect_err("the file does not list bob");
    assert_eq!(refused.code, Refusal::BadToken, "new logins are decided by the file as it is");
    assert_eq!(crowd.tunnels(), before);
    replace_file(&file, &clients());
    // Decided by the whole file, so the first half is history when this is over.
    let asked = crate::harness::puppet::ask(server, &hello("bob", &[])).await;
    assert!(asked.is_ok(), "{asked:?}");
    assert_eq!(crowd.tunnels(), before);
    let ended = crowd.agents[0].session.ended();
    assert!(
        tokio::time::timeout(GRACE + Duration::from_secs(1), ended).await.is_err(),
        "nothing is closed later, either"
    );
    assert_eq!(crowd.tunnels(), before);
}

#[tokio::test]
async fn a_list_that_stays_short_closes_most_tunnels_when_their_time_is_over() {
    let crowd = Crowd::gather().await;
    let began = Instant::now();
    crowd.server.clients.replace(clients_file(&first_half()));
    for agent in &crowd.agents[..3] {
        soon("the end of a tunnel", agent.session.ended()).await;
    }
    assert!(began.elapsed() >= GRACE, "{:?}", began.elapsed());
    let left = || crowd.server.registry.len() == 1;
    until("one tunnel", &crowd.server.registry, left).await;
    assert_eq!(crowd.server.registry.all()[0].client().as_str(), "carol");
}

#[tokio::test]
async fn what_is_removed_by_command_is_closed_at_once() {
    let crowd = Crowd::gather().await;
    let file = crowd.server.dir().path().join("clients.toml");
    // Most tunnels are alice's.
    let more = Puppet::connect(&crowd.server, &hello("alice", &["shop"])).await;
    replace_file(&file, &clients());
    crowd.server.clients_file.reload_changed().await;
    let began = Instant::now();
    let alice = "alice".parse().unwrap();
    tokio::task::spawn_blocking(move || edit_file(&file, |clients| clients.revoke_client(&alice)).unwrap())
        .await
        .unwrap();
    for agent in [&crowd.agents[0], &crowd.agents[1], &more] {
        soon("the end of a tunnel", agent.session.ended()).await;
    }
    assert!(began.elapsed() < GRACE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_is_removed_by_command_is_closed_at_once_while_the_rest_has_time() {
    let crowd = Crowd::gather().await;
    let file = crowd.server.dir().path().join("clients.toml");
    // By hand: nobody's token holds any more, and all are still listed.
    let expired = clients().replace("]\ntoken_hash", "]\nexpires = 2026-01-01T00:00:00Z\ntoken_hash");
    assert_ne!(expired, clients());
    replace_file(&file, &expired);
    crowd.server.clients_file.reload_changed().await;
    let began = Instant::now();
    let alice = "alice".parse().unwrap();
    tokio::task::spawn_blocking(move || edit_file(&file, |clients| clients.revoke_client(&alice)).unwrap())
        .await
        .unwrap();
    for agent in &crowd.agents[..2] {
        soon("the end of a tunnel", agent.session.ended()).await;
    }
    assert!(began.elapsed() < GRACE, "{:?}", began.elapsed());
    soon("the end of a tunnel", crowd.agents[2].session.ended()).await;
    assert!(began.elapsed() >= GRACE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn few_tunnels_are_closed_at_once_and_their_agents_return() {
    let server = TestServer::start(&[]);
    let local = apps::fixed("here").await;
    let mut agents = Vec::new();
    for client in ["alice", "bob", "carol"] {
        agents.push(TestAgent::connect(&server, client, &[(client, local)]).await);
    }
    server.clients.replace(clients_file(&first_half()));
    let mut carol = agents.pop().unwrap();
    for agent in &mut agents {
        agent.refused("bad_token").await;
    }
    server.clients.replace(clients_file(&clients()));
    for agent in &mut agents {
        agent.connected().await;
    }
    carol.connected().await;
    for client in ["alice", "bob", "carol"] {
        assert_eq!(fetch(server.public, client, "/").await.text(), "here");
    }
}

#[tokio::test]
async fn a_login_is_decided_by_the_file_however_soon_it_comes() {
    let server = TestServer::start(&[]);
    let file = server.dir().path().join("clients.toml");
    let without_bob = clients().replace("[clients.bob]", "[clients.dave]").replace("[\"bob\"]", "[\"dave\"]");
    for round in 0..5 {
        replace_file(&file, &without_bob);
        let refused = log_in(&server, &hello("bob", &["bob"])).await.expect_err("bob is not listed");
        assert_eq!(refused.code, Refusal::BadToken, "round {round}");
        replace_file(&file, &clients());
        assert!(log_in(&server, &hello("bob", &["bob"])).await.is_ok(), "round {round}");
    }
}

#[tokio::test]
async fn one_server_that_refuses_keeps_no_agent_from_another() {
    let stale = TestServer::start(&[]);
    stale.clients.replace(clients_file("[clients]\n"));
    let good = TestServer::start_in(stale.dir(), &[]);
    let services = [("alice", apps::fixed("here").await)];
    let servers = [stale.tunnel, good.tunnel];
    for start in [TestAgent::start_at, TestAgent::start_at_a_terminal] {
        let mut agent = start(&servers, stale.fingerprint, "alice", &services);
        agent.connected().await;
        assert_eq!(fetch(good.public, "alice", "/").await.text(), "here");
        agent.stop().await.unwrap();
    }
    assert!(stale.registry.is_empty());
}

#[tokio::test]
async fn at_a_terminal_an_agent_ends_only_when_every_server_has_refused_it() {
    let [one, two] = [TestServer::start(&[]), TestServer::start(&[])];
    let dir = one.dir();
    let two = TestServer::start_in(
        dir,
        &[("tunnel.listen", &{
            let at = two.tunnel.to_string();
            drop(two);
            at
        })],
    );
    for server in [&one, &two] {
        server.clients.replace(clients_file("[clients]\n"));
    }
    let services = [("alice", apps::nothing().await)];
    let nobody = apps::nothing().await;
    let mut waiting = TestAgent::start_at_a_terminal(&[one.tunnel, nobody], one.fingerprint, "alice", &services);
    let why = waiting.refused("bad_token").await;
    assert!(why.contains(&nobody.to_string()), "both servers are named: {why}");
    let agent = TestAgent::start_at_a_terminal(&[one.tunnel, two.tunnel], one.fingerprint, "alice", &services);
    match agent.ended().await {
        Err(GivenUp::Refused { code: Refusal::BadToken, server, message }) => {
            assert_eq!(server, one.tunnel.to_string());
            assert!(message.contains(&two.tunnel.to_string()), "{message}");
        }
        other => panic!("{other:?}"),
    }
    waiting.stop().await.unwrap();
}

#[tokio::test]
async fn whoever_was_accepted_once_waits_also_at_a_terminal() {
    let server = TestServer::start(&[]);
    let services = [("alice", apps::fixed("here").await)];
    let mut agent = TestAgent::start_at_a_terminal(&[server.tunnel], server.fingerprint, "alice", &services);
    agent.connected().await;
    server.clients.replace(clients_file("[clients]\n"));
    agent.refused("bad_token").await;
    server.clients.replace(clients_file(&clients()));
    agent.connected().await;
}

#[tokio::test]
async fn every_refusal_is_asked_about_again_and_a_change_is_asked_about_at_once() {
    let server = StandIn::start().await;
    let app = apps::fixed("app").await;
    let mut agent = TestAgent::start_at(&[server.address], server.fingerprint, "alice", &[("alice", app)]);
    let codes = [Refusal::BadToken, Refusal::NotAllowed, Refusal::NameTaken, Refusal::Version, Refusal::Other];
    for code in codes.into_iter().cycle().take(12) {
        server.login().await.refuse(code, "not now").await;
        agent.refused(code.word()).await;
        // By now it would wait for minutes.
        agent.reconnect_now();
    }
    server.login().await.refuse(Refusal::BadToken, "not now").await;
    agent.refused("bad_token").await;
    agent.change_token("adit_new", vec![service("alice", &app.to_string(), &[])]);
    agent.reconnect_now();
    let login = server.login().await;
    let _lane = login.welcome().await;
    agent.connected().await;
}

#[tokio::test]
async fn an_agent_waits_longer_after_each_refusal_and_says_how_long() {
    let server = StandIn::start().await;
    let mut agent =
        TestAgent::start_at(&[server.address], server.fingerprint, "alice", &[("alice", apps::nothing().await)]);
    let mut waits = Vec::new();
    for _ in 0..3 {
        server.login().await.refuse(Refusal::NotAllowed, "not yours").await;
        let is_waiting = |state: &State| matches!(state, State::Waiting { .. });
        let State::Waiting { why, retry_in } = agent.reaches("a wait", is_waiting).await else { unreachable!() };
        assert!(why.contains("refused (not_allowed): not yours"), "{why}");
        waits.push(retry_in);
        agent.reaches("the next attempt", |state| *state == State::Connecting).await;
    }
    assert!(waits[0] >= Duration::from_secs(1) && waits[0] < waits[2], "{waits:?}");
}

#[tokio::test]
async fn a_refused_token_turns_no_changed_services_back() {
    let server = StandIn::start().await;
    let app = apps::fixed("app").await;
    let mut agent = TestAgent::start_at(&[server.address], server.fingerprint, "alice", &[("alice", app)]);
    let old = server.login().await.welcome_with(&[], 10.0).await;
    agent.connected().await;
    agent.change(vec![service("blog", &app.to_string(), &[])]);
    // By the ticket, and then by the token.
    server.login().await.refuse(Refusal::BadToken, "not now").await;
    server.login().await.refuse(Refusal::BadToken, "not now").await;
    assert_eq!(old.ask("alice", "/").await.body().await, "app", "the tunnel goes on");
    let State::Connected { refused, .. } = agent.state.borrow().clone() else { panic!("not connected") };
    assert_eq!(refused, None, "the change is still to come");
}

#[tokio::test]
async fn services_that_a_half_file_does_not_allow_stay_with_the_tunnels() {
    let server = TestServer::start(&[]);
    let names = ["bob", "bob1", "bob2"];
    let whole = clients().replace("[\"bob\"]", &format!("{names:?}"));
    server.clients.replace(clients_file(&whole));
    let alice = Puppet::connect(&server, &hello("alice", &["alice", "blog"])).await;
    let mut bobs = Vec::new();
    for name in names {
        bobs.push(Puppet::connect(&server, &hello("bob", &[name])).await);
    }
    let half = whole.replace("\"blog\", ", "").replace("[clients.bob]", "[clients.dave]").replace("\"bob", "\"dave");
    server.clients.replace(clients_file(&half));
    let leads = || server.registry.by_name(&name("blog")).is_some();
    for _ in 0..20 {
        log_in(&server, &hello("bob", &["bob"])).await.expect_err("bob is not listed");
        assert!(leads(), "the name was taken away at once");
    }
    // Nothing mends it, so all of it happens when the time is over.
    for bob in &bobs {
        soon("the end of a tunnel", bob.session.ended()).await;
    }
    until("one name less", &server.registry, || !leads()).await;
    assert!(server.registry.by_name(&name("alice")).is_some());
    drop(alice);
}
