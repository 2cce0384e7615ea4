//! Services that change while an agent is connected.

use adit::agent::{GivenUp, State};
use adit::protocol::control::Control;
use adit::protocol::frame::Status;
use adit::protocol::login::{Proof, Refusal, Refused};
use adit::schema::Flags;
use http::StatusCode;
use tokio::io::AsyncWriteExt;

use crate::harness::apps::{self, Script};
use crate::harness::stand_in::{Lane, StandIn, names};
use crate::harness::visitor::{self, fetch};
use crate::harness::{ServiceEntry, TestAgent, TestServer, service, soon, until};

fn entries(services: &[(&str, std::net::SocketAddr)]) -> Vec<ServiceEntry> {
    services.iter().map(|(name, local)| service(name, &local.to_string(), &[])).collect()
}

/// An agent of alice's at a stand-in, and its lane.
async fn connected(server: &StandIn, services: &[(&str, std::net::SocketAddr)]) -> (TestAgent, Lane) {
    let mut agent = TestAgent::start_at(&[server.address], server.fingerprint, "alice", services);
    let lane = server.login().await.welcome().await;
    agent.connected().await;
    (agent, lane)
}

/// Waits until these services can be reached.
async fn offers(agent: &mut TestAgent, names: &[&str]) -> State {
    let holds = |state: &State| match state {
        State::Connected { services, configured, .. } => {
            let public = services.iter().map(|service| service.name.as_str()).eq(names.iter().copied());
            public && configured.iter().map(|service| service.name.as_str()).eq(names.iter().copied())
        }
        _ => false,
    };
    agent.reaches("changed services", holds).await
}

async fn refused(agent: &mut TestAgent) -> String {
    let state = agent.reaches("a refusal", |state| matches!(state, State::Connected { refused: Some(_), .. })).await;
    let State::Connected { refused: Some(why), .. } = state else { unreachable!() };
    why
}

fn no(change: u64) -> Control {
    Control::NotOffered { change, refused: Refused::new(Refusal::NotAllowed, "not yours") }
}

/// An application that answers a request with what it is told to, on a connection that stays.
async fn answer(app: &mut Script, text: &str) {
    let (mut socket, _) = app.request().await;
    socket
        .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).as_bytes())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_new_service_is_ready_before_the_server_knows_and_what_stays_goes_on() {
    let server = StandIn::start().await;
    let (mut app, blog) = (Script::start().await, apps::fixed("blog").await);
    let (mut agent, mut lane) = connected(&server, &[("alice", app.address)]).await;
    let open = lane.ask("alice", "/").await;
    assert_eq!(lane.ask("blog", "/").await.status().await, Status::UnknownService);
    assert!(agent.change(entries(&[("alice", app.address), ("blog", blog)])));
    let (change, offered) = lane.change().await;
    assert_eq!((change, names(&offered)), (1, vec!["alice", "blog"]));
    assert_eq!(lane.ask("blog", "/").await.body().await, "blog");
    lane.agree(1, &["alice", "blog"]);
    offers(&mut agent, &["alice", "blog"]).await;
    answer(&mut app, "open").await;
    assert_eq!(open.body().await, "open");
    assert!(!agent.change(entries(&[("alice", app.address), ("blog", blog)])), "nothing has changed");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_service_goes_when_the_server_has_agreed_and_what_is_open_on_it_is_finished() {
    let server = StandIn::start().await;
    let (mut app, alice) = (Script::start().await, apps::fixed("alice").await);
    let (mut agent, mut lane) = connected(&server, &[("alice", alice), ("blog", app.address)]).await;
    let open = lane.ask("blog", "/").await;
    agent.change(entries(&[("alice", alice)]));
    assert_eq!(names(&lane.change().await.1), ["alice"]);
    let late = lane.ask("blog", "/late").await;
    answer(&mut app, "open").await;
    answer(&mut app, "late").await;
    let bodies = [open.body().await, late.body().await];
    assert!(bodies == ["open", "late"] || bodies == ["late", "open"], "{bodies:?}");
    let open = lane.ask("blog", "/").await;
    let (mut socket, _) = app.request().await;
    lane.agree(1, &["alice"]);
    offers(&mut agent, &["alice"]).await;
    assert_eq!(lane.ask("blog", "/").await.status().await, Status::UnknownService);
    assert_eq!(lane.ask("alice", "/").await.body().await, "alice");
    socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast").await.unwrap();
    assert_eq!(open.body().await, "last");
}

#[tokio::test]
async fn a_refused_change_is_undone_and_the_next_one_is_tried() {
    let server = StandIn::start().await;
    let [alice, blog, shop] = [apps::fixed("alice").await, apps::fixed("blog").await, apps::fixed("shop").await];
    let (mut agent, mut lane) = connected(&server, &[("alice", alice)]).await;
    agent.change(entries(&[("alice", alice), ("blog", blog)]));
    assert_eq!(lane.change().await.0, 1);
    lane.say(no(1));
    assert_eq!(refused(&mut agent).await, "not yours (not_allowed)");
    offers(&mut agent, &["alice"]).await;
    assert_eq!(lane.ask("blog", "/").await.status().await, Status::UnknownService);
    assert_eq!(lane.ask("alice", "/").await.body().await, "alice");
    // Nobody's answer.
    lane.agree(1, &["alice", "blog"]);
    agent.change(entries(&[("alice", alice), ("shop", shop)]));
    let (change, offered) = lane.change().await;
    assert_eq!((change, names(&offered)), (2, vec!["alice", "shop"]));
    lane.agree(2, &["alice", "shop"]);
    let state = offers(&mut agent, &["alice", "shop"]).await;
    assert!(matches!(state, State::Connected { refused: None, .. }), "{state:?}");
    assert_eq!(lane.ask("shop", "/").await.body().await, "shop");
}

#[tokio::test]
async fn the_same_change_is_tried_again_and_putting_it_back_needs_nobody() {
    let server = StandIn::start().await;
    let app = apps::fixed("app").await;
    let (mut agent, mut lane) = connected(&server, &[("alice", app)]).await;
    for change in [1, 2] {
        assert!(agent.change(entries(&[("alice", app), ("blog", app)])));
        assert_eq!(lane.change().await.0, change);
        lane.say(no(change));
        refused(&mut agent).await;
        assert!(!agent.change(entries(&[("alice", app)])), "it is what counts already");
        agent.reaches("no refusal", |state| matches!(state, State::Connected { refused: None, .. })).await;
    }
    // Had putting it back been said, it would have come first.
    agent.change(entries(&[("shop", app)]));
    assert_eq!(lane.change().await.0, 3);
}

#[tokio::test]
async fn one_change_is_under_way_and_of_the_next_the_latest_counts() {
    let server = StandIn::start().await;
    let app = apps::fixed("app").await;
    let (mut agent, mut lane) = connected(&server, &[("alice", app)]).await;
    agent.change(entries(&[("alice", app), ("blog", app)]));
    assert_eq!(lane.change().await.0, 1);
    agent.change(entries(&[("alice", app)]));
    agent.change(entries(&[("alice", app), ("shop", app)]));
    lane.agree(1, &["alice", "blog"]);
    let (change, offered) = lane.change().await;
    assert_eq!((change, names(&offered)), (3, vec!["alice", "shop"]));
    lane.agree(3, &["alice", "shop"]);
    offers(&mut agent, &["alice", "shop"]).await;
}

#[tokio::test]
async fn a_change_that_was_lost_with_a_lane_is_said_on_another() {
    let server = StandIn::start().await;
    let app = apps::fixed("app").await;
    let (mut agent, mut first) = connected(&server, &[("alice", app)]).await;
    first.say(Control::OpenLane);
    let login = server.login().await;
    assert!(login.hello.join.is_some());
    let mut second = login.welcome().await;
    agent.reaches("two lanes", |state| matches!(state, State::Connected { lanes: 2, .. })).await;
    agent.change(entries(&[("alice", app), ("blog", app)]));
    assert_eq!(second.change().await.0, 1, "the newest lane is the likeliest to live");
    second.cut();
    let (change, offered) = first.change().await;
    assert_eq!((change, names(&offered)), (1, vec!["alice", "blog"]));
    first.agree(1, &["alice", "blog"]);
    offers(&mut agent, &["alice", "blog"]).await;
}

#[tokio::test]
async fn a_change_that_was_lost_with_the_last_lane_comes_with_the_next_login() {
    let server = StandIn::start().await;
    let app = apps::fixed("app").await;
    let (mut agent, mut lane) = connected(&server, &[("alice", app)]).await;
    agent.change(entries(&[("alice", app), ("blog", app)]));
    assert_eq!(lane.change().await.0, 1);
    lane.cut();
    let login = server.login().await;
    assert_eq!(login.names(), ["alice", "blog"]);
    let lane = login.welcome().await;
    offers(&mut agent, &["alice", "blog"]).await;
    assert_eq!(lane.ask("blog", "/").await.body().await, "app");
}

#[tokio::test]
async fn where_nobody_answers_the_agent_logs_in_anew() {
    let server = StandIn::start().await;
    let app = apps::fixed("app").await;
    let mut agent = TestAgent::start_at(&[server.address], server.fingerprint, "alice", &[("alice", app)]);
    let mut lane = server.login().await.welcome_with(&[adit::protocol::requirements::SERVICES], 1.0).await;
    agent.connected().await;
    agent.change(entries(&[("blog", app)]));
    assert_eq!(lane.change().await.0, 1);
    let login = server.login().await;
    assert_eq!(login.names(), ["blog"]);
    // Nobody knows whether the server has heard of it: until the login is good, everything is as before.
    assert_eq!(lane.ask("alice", "/").await.body().await, "app");
    let _new = login.welcome().await;
    offers(&mut agent, &["blog"]).await;
    lane.left().await;
}

#[tokio::test]
async fn where_only_the_way_has_changed_the_server_is_not_told() {
    let server = StandIn::start().await;
    let [old, new] = [apps::fixed("old").await, apps::fixed("new").await];
    let (mut agent, mut lane) = connected(&server, &[("alice", old)]).await;
    assert_eq!(lane.ask("alice", "/").await.body().await, "old");
    agent.change(entries(&[("alice", new)]));
    let moved = |state: &State| match state {
        State::Connected { configured, .. } => configured[0].local.text == new.to_string(),
        _ => false,
    };
    agent.reaches("a changed way", moved).await;
    assert_eq!(lane.ask("alice", "/").await.body().await, "new");
    agent.change(entries(&[("alice", new), ("blog", new)]));
    assert_eq!(lane.change().await.0, 2, "the first was nobody else's business");
}

#[tokio::test]
async fn what_the_operator_changes_is_shown() {
    let server = StandIn::start().await;
    let app = apps::fixed("app").await;
    let (mut agent, lane) = connected(&server, &[("alice", app), ("blog", app)]).await;
    lane.agree(0, &["alice"]);
    let without_blog = |state: &State| match state {
        State::Connected { services, configured, .. } => services.len() == 1 && configured.len() == 2,
        _ => false,
    };
    agent.reaches("a service less", without_blog).await;
    lane.agree(0, &["alice", "blog"]);
    offers(&mut agent, &["alice", "blog"]).await;
    assert_eq!(lane.ask("blog", "/").await.body().await, "app");
}

#[tokio::test]
async fn a_login_that_is_refused_for_changed_services_falls_back_to_those_before() {
    let server = StandIn::start().await;
    let app = apps::fixed("app").await;
    let (mut agent, lane) = connected(&server, &[("alice", app)]).await;
    lane.cut();
    agent.reaches("a lost connection", |state| matches!(state, State::Waiting { .. })).await;
    agent.change(entries(&[("alice", app), ("bob", app)]));
    let login = server.login().await;
    assert_eq!(login.names(), ["alice", "bob"]);
    // By its ticket; this refusal is about the services.
    login.refuse(Refusal::NotAllowed, "bob is another's").await;
    let login = server.login().await;
    assert_eq!(login.names(), ["alice"]);
    let _lane = login.welcome().await;
    assert_eq!(refused(&mut agent).await, "bob is another's (not_allowed)");
}

#[tokio::test]
async fn what_was_refused_is_asked_for_again_with_each_new_connection() {
    let server = StandIn::start().await;
    let app = apps::fixed("app").await;
    let (mut agent, mut lane) = connected(&server, &[("alice", app)]).await;
    agent.change(entries(&[("alice", app), ("blog", app)]));
    assert_eq!(lane.change().await.0, 1);
    lane.say(no(1));
    refused(&mut agent).await;
    lane.cut();
    // The server may have been upgraded, or may be another one: and refuses, too.
    let login = server.login().await;
    assert_eq!(login.names(), ["alice", "blog"]);
    login.refuse(Refusal::Version, "what is that?").await;
    let login = server.login().await;
    assert_eq!(login.names(), ["alice"]);
    let lane = login.welcome().await;
    let of_login = |state: &State| matches!(state, State::Connected { refused: Some(why), .. } if why.starts_with("what is that?"));
    agent.reaches("the other refusal", of_login).await;
    lane.cut();
    let login = server.login().await;
    assert_eq!(login.names(), ["alice", "blog"]);
    let _lane = login.welcome().await;
    let state = offers(&mut agent, &["alice", "blog"]).await;
    assert!(matches!(state, State::Connected { refused: None, .. }), "{state:?}");
}

#[tokio::test]
async fn what_was_refused_from_the_beginning_ends_the_agent() {
    let server = StandIn::start().await;
    let services = [("bob", apps::nothing().await)];
    let agent = TestAgent::start_at_a_terminal(&[server.address], server.fingerprint, "alice", &services);
    agent.change(entries(&[("carol", apps::nothing().await)]));
    server.login().await.refuse(Refusal::NotAllowed, "not yours").await;
    assert!(matches!(agent.ended().await, Err(GivenUp::Refused { code: Refusal::NotAllowed, .. })));
}

#[tokio::test]
async fn a_new_token_is_used_from_the_next_login_on() {
    let server = StandIn::start().await;
    let app = apps::fixed("app").await;
    let (agent, lane) = connected(&server, &[("alice", app)]).await;
    assert!(!agent.change_token("adit_new", entries(&[("alice", app)])), "the services are the same");
    assert_eq!(lane.ask("alice", "/").await.body().await, "app", "the tunnel is untouched");
    lane.cut();
    let login = server.login().await;
    match &login.hello.proof {
        Some(Proof::Token(token)) => assert_eq!(token.expose(), "adit_new"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_older_server_is_logged_in_to_anew_and_the_earlier_tunnel_finishes() {
    let server = StandIn::start().await;
    let (mut app, blog) = (Script::start().await, apps::fixed("blog").await);
    let mut agent = TestAgent::start_at(&[server.address], server.fingerprint, "alice", &[("alice", app.address)]);
    let mut old = server.login().await.welcome_with(&[], 10.0).await;
    agent.connected().await;
    let open = old.ask("alice", "/").await;
    agent.change(entries(&[("alice", app.address), ("blog", blog)]));
    let login = server.login().await;
    assert_eq!(login.names(), ["alice", "blog"]);
    assert_ne!(login.hello.instance_id, old.hello.instance_id, "the earlier tunnel is not to be closed at once");
    assert!(matches!(login.hello.proof, Some(Proof::Ticket(_))));
    // The server takes the name over and says so, perhaps before its welcome is read.
    old.say(Control::Replaced { by: "adit".to_owned() });
    let new = login.welcome_with(&[], 10.0).await;
    offers(&mut agent, &["alice", "blog"]).await;
    assert!(matches!(old.heard().await, Control::Draining { .. }));
    assert_eq!(new.ask("blog", "/").await.body().await, "blog");
    answer(&mut app, "open").await;
    assert_eq!(open.body().await, "open");
    old.left().await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn an_older_server_may_refuse_and_nothing_has_happened() {
    let server = StandIn::start().await;
    let app = apps::fixed("app").await;
    let mut agent = TestAgent::start_at(&[server.address], server.fingerprint, "alice", &[("alice", app)]);
    let old = server.login().await.welcome_with(&[], 10.0).await;
    agent.connected().await;
    agent.change(entries(&[("bob", app)]));
    server.login().await.refuse(Refusal::NameTaken, "bob is another's").await;
    assert_eq!(refused(&mut agent).await, "bob is another's (name_taken)");
    assert_eq!(old.ask("alice", "/").await.body().await, "app");
    assert_eq!(old.ask("bob", "/").await.status().await, Status::UnknownService);
}

#[tokio::test]
async fn a_replaced_agent_ends_though_it_was_about_to_change() {
    let server = StandIn::start().await;
    let app = apps::fixed("app").await;
    for exits in [true, false] {
        let settings = Flags::new().with("exit_when_replaced", exits);
        let services = entries(&[("alice", app)]);
        let mut agent = TestAgent::start_set(&[server.address], server.fingerprint, "alice", services, settings);
        let old = server.login().await.welcome_with(&[], 10.0).await;
        agent.connected().await;
        agent.change(entries(&[("blog", app)]));
        let login = server.login().await;
        old.say(Control::Replaced { by: "another".to_owned() });
        login.refuse(Refusal::NameTaken, "a newer one has it").await;
        if exits {
            assert_eq!(agent.ended().await, Err(GivenUp::Replaced { by: "another".to_owned() }));
            continue;
        }
        let waits = |state: &State| matches!(state, State::Waiting { why, .. } if why.contains("another"));
        let State::Waiting { why, retry_in } = agent.reaches("a wait", waits).await else { unreachable!() };
        assert!(why.starts_with("standing by: another was started later"), "{why}");
        assert!(retry_in >= std::time::Duration::from_secs(30), "{retry_in:?}");
    }
}

#[tokio::test]
async fn services_change_at_a_real_server_without_a_request_lost() {
    let server = TestServer::start(&[]);
    let (mut app, blog) = (Script::start().await, apps::fixed("blog").await);
    let alice = apps::fixed("alice").await;
    let mut agent = TestAgent::connect(&server, "alice", &[("alice", alice), ("shop", app.address)]).await;
    let mut open = visitor::raw(server.public, "GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    let (mut local, _) = app.request().await;
    agent.change(entries(&[("alice", alice), ("blog", blog)]));
    let changed = offers(&mut agent, &["alice", "blog"]);
    let asking = async {
        loop {
            let answer = fetch(server.public, "alice", "/").await;
            assert_eq!((answer.status, answer.text()), (StatusCode::OK, "alice"));
        }
    };
    soon("changed services", async {
        tokio::select! {
            _ = changed => {}
            never = asking => never,
        }
    })
    .await;
    assert_eq!(fetch(server.public, "blog", "/").await.text(), "blog");
    let gone = || server.registry.by_name(&crate::harness::name("shop")).is_none();
    until("a name that is not offered any more", &server.registry, gone).await;
    local.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nopen").await.unwrap();
    visitor::read_until(&mut open, "open").await;
    agent.change(entries(&[("alice", alice), ("bob", blog)]));
    assert!(refused(&mut agent).await.contains("may not claim the name `bob`"));
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "alice");
}
