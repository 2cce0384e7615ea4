//! A tunnel of several lanes.

use adit::agent::State;
use adit::protocol::frame::Status;
use adit::protocol::json;
use adit::protocol::login::{Hello, Refusal};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::apps::{self, Script};
use crate::harness::puppet::{self, Puppet, hello, log_in, secret};
use crate::harness::visitor::{self, fetch};
use crate::harness::{TestAgent, TestServer, clients_file, soon, until};

async fn two_lanes(server: &TestServer, agent: &mut TestAgent) {
    assert!(server.tunnel_of("alice").request_lane());
    agent.reaches("a second lane", |state| matches!(state, State::Connected { lanes: 2, .. })).await;
    until("a second lane", &server.registry, || server.tunnel_of("alice").lanes().len() == 2).await;
}

#[tokio::test]
async fn a_tunnel_with_two_lanes_loses_one_and_keeps_serving() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let mut agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    two_lanes(&server, &mut agent).await;
    let tunnel = server.tunnel_of("alice");

    // Two open requests: they spread over the lanes.
    let request = "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n";
    let mut open = Vec::new();
    for _ in 0..2 {
        let visitor = visitor::raw(server.public, request).await;
        let (local, _) = app.request().await;
        open.push((visitor, local));
    }
    let lanes = tunnel.lanes();
    assert_eq!(lanes.iter().map(|lane| lane.streams()).collect::<Vec<_>>(), [1, 1]);

    lanes[0].session().close();
    until("one lane", &server.registry, || tunnel.lanes().len() == 1).await;
    agent.reaches("one lane", |state| matches!(state, State::Connected { lanes: 1, .. })).await;
    // The request on the lost lane is told so, the one on the other lane goes on.
    let mut answers = Vec::new();
    for (mut visitor, mut local) in open {
        let _ = local.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        answers.push(visitor::read_until(&mut visitor, "\r\n").await);
    }
    answers.sort();
    assert!(answers[0].starts_with("HTTP/1.1 200"), "{answers:?}");
    assert!(answers[1].starts_with("HTTP/1.1 502"), "{answers:?}");
    let (answer, ()) = tokio::join!(fetch(server.public, "alice", "/"), async {
        let (mut local, _) = app.request().await;
        local.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    });
    assert_eq!(answer.text(), "ok");
    assert_eq!(server.tunnel_of("alice").id(), tunnel.id(), "it is still the same tunnel");
}

#[tokio::test]
async fn a_tunnel_outlives_the_lane_that_made_it_and_dies_with_its_last() {
    let server = TestServer::start(&[]);
    let mut agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("here").await)]).await;
    two_lanes(&server, &mut agent).await;
    let tunnel = server.tunnel_of("alice");
    let first = tunnel.lanes().into_iter().min_by_key(|lane| lane.id()).unwrap();
    first.session().close();
    until("one lane", &server.registry, || tunnel.lanes().len() == 1).await;
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "here");
    tunnel.lanes()[0].session().close();
    until("another tunnel", &server.registry, || {
        server.registry.by_name(&crate::harness::name("alice")).is_some_and(|now| now.tunnel.id() != tunnel.id())
    })
    .await;
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "here", "the agent has come back with a new tunnel");
}

#[tokio::test]
async fn a_lane_joins_only_with_its_tunnels_secret_and_for_its_client() {
    let server = TestServer::start(&[]);
    let first = hello("alice", &["alice"]);
    let (welcome, _pipe) = log_in(&server, &first).await.unwrap();
    until("a first lane", &server.registry, || server.registry.serves_any()).await;
    let join = puppet::join(&first, &welcome);
    let mut wrong = join.clone();
    wrong.join.as_mut().unwrap().lane_secret = secret("guess");
    assert_eq!(log_in(&server, &wrong).await.expect_err("a guess").code, Refusal::BadToken);
    let foreign = Hello { client_id: "bob".parse().unwrap(), ..join.clone() };
    assert_eq!(log_in(&server, &foreign).await.expect_err("not bob's").code, Refusal::WrongNode);
    let (second, _second) = log_in(&server, &join).await.unwrap();
    assert_eq!(second.tunnel_id, welcome.tunnel_id);
    assert_ne!(second.lane.lane_id, welcome.lane.lane_id);
    assert_eq!(server.registry.len(), 1, "a lane is no tunnel of its own");
    server.clients.replace(clients_file("[clients]\n"));
    assert_eq!(log_in(&server, &join).await.expect_err("revoked").code, Refusal::WrongNode);
}

#[tokio::test]
async fn a_tunnel_has_at_most_four_lanes() {
    let server = TestServer::start(&[]);
    let first = hello("alice", &["alice"]);
    let puppet = Puppet::connect(&server, &first).await;
    let join = puppet::join(&first, &puppet.welcome);
    let mut lanes = Vec::new();
    for _ in 1..adit::server::directory::tunnel::MAX_LANES {
        lanes.push(Puppet::connect(&server, &join).await);
    }
    assert_eq!(log_in(&server, &join).await.expect_err("one too many").code, Refusal::TooMany);
    assert_eq!(server.tunnel_of("alice").lanes().len(), adit::server::directory::tunnel::MAX_LANES);
}

#[tokio::test]
async fn a_worn_lane_is_succeeded_by_a_fresh_one_and_finishes_what_it_has() {
    let server = TestServer::start(&[("limits.per_tunnel.lane_lifetime", "5")]);
    let mut app = Script::start().await;
    let fast = apps::fixed("fast").await;
    let mut agent = TestAgent::connect(&server, "alice", &[("alice", app.address), ("blog", fast)]).await;
    let tunnel = server.tunnel_of("alice");
    let old = tunnel.lanes()[0].clone();
    let mut visitor = visitor::raw(server.public, "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n").await;
    let (mut local, _) = app.request().await;
    for _ in 0..4 {
        assert_eq!(fetch(server.public, "blog", "/").await.text(), "fast");
    }
    agent.reaches("a second lane", |state| matches!(state, State::Connected { lanes: 2, .. })).await;
    until("a second lane", &server.registry, || tunnel.lanes().len() == 2).await;
    assert_eq!(fetch(server.public, "blog", "/").await.text(), "fast");
    assert_eq!(old.session().opened(), 5, "the old lane opens no more");
    local.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate").await.unwrap();
    visitor::read_until(&mut visitor, "late").await;
    until("the end of the old lane", &server.registry, || tunnel.lanes().iter().all(|lane| lane.id() != old.id()))
        .await;
    assert_eq!(server.tunnel_of("alice").id(), tunnel.id());
    assert_eq!(fetch(server.public, "blog", "/").await.text(), "fast");
}

#[tokio::test]
async fn a_lane_that_breaks_the_wire_harms_nobody_else() {
    let server = TestServer::start(&[]);
    let beat = json::encode(&adit::protocol::control::Control::Heartbeat).unwrap();
    let mut puppet = Puppet::connect(&server, &hello("bob", &["bob"])).await;
    let _control = puppet.control(&beat).await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("fine").await)]).await;
    for spoilt in [&b"\xff"[..], &[Status::Accepted as u8, 99, 0, 0, 0], &[Status::Accepted as u8, 4, 0, 0, 1, 0], &[]]
    {
        let (answer, ()) = tokio::join!(fetch(server.public, "bob", "/"), async {
            let stream = soon("a stream", puppet.streams.recv()).await.unwrap();
            if spoilt.is_empty() {
                stream.abort();
            } else {
                std::future::poll_fn(|cx| stream.poll_write(cx, spoilt)).await.unwrap();
            }
        });
        assert_eq!((answer.status, answer.header("x-adit-error")), (StatusCode::BAD_GATEWAY, "tunnel_lost"));
    }
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "fine");
    // Nonsense on the control stream ends that lane, and nothing else.
    let stream = puppet.control(&[0xff; 8]).await;
    drop(stream);
    let mut nonsense = Puppet::connect(&server, &hello("carol", &["carol"])).await;
    let _control = nonsense.control(&[0xff; 8]).await;
    soon("the end of that session", nonsense.session.ended()).await;
    assert!(nonsense.streams.recv().await.is_none());
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "fine");
}

#[tokio::test]
async fn a_tunnel_has_as_many_lanes_as_it_needs_and_no_more() {
    let limits = [("limits.per_tunnel.streams_per_lane", "4"), ("tunnel.heartbeat", "1s")];
    let server = TestServer::start(&limits);
    let mut app = Script::start().await;
    let mut agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    // Each waits for its answer: more than fit on one lane.
    let mut open = Vec::new();
    for _ in 0..8 {
        let visitor = visitor::raw(server.public, "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n").await;
        open.push((visitor, app.request().await));
        if open.len() == 4 {
            agent.reaches("a second lane", |state| matches!(state, State::Connected { lanes: 2, .. })).await;
            until("a second lane", &server.registry, || server.tunnel_of("alice").lanes().len() == 2).await;
        }
    }
    assert_eq!(server.tunnel_of("alice").streams(), 8);
    drop(open);
    agent.reaches("one lane", |state| matches!(state, State::Connected { lanes: 1, .. })).await;
    let (answer, ()) = tokio::join!(fetch(server.public, "alice", "/"), async {
        let (mut local, _) = app.request().await;
        local.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    });
    assert_eq!(answer.text(), "ok");
}

#[tokio::test]
async fn small_requests_leave_the_lane_of_a_download() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let mut agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut download = visitor::raw(server.public, "GET /big HTTP/1.1\r\nHost: alice.localhost\r\n\r\n").await;
    let (mut big, _) = app.request().await;
    big.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n").await.unwrap();
    // A megabyte of it within a second is enough: there is one, also on a busy machine.
    let (piece, mut got) = (vec![0; 16_000_000], vec![0; 16_000_000]);
    let (sent, ()) = tokio::join!(big.write_all(&piece), async {
        visitor::read_until(&mut download, "\r\n\r\n").await;
        soon("sixteen megabytes", download.read_exact(&mut got)).await.unwrap();
    });
    sent.unwrap();
    // The first request beside it asks for the lane on which the next ones go.
    let small = || visitor::raw(server.public, "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n");
    let first = (small().await, app.request().await);
    agent.reaches("a second lane", |state| matches!(state, State::Connected { lanes: 2, .. })).await;
    until("a second lane", &server.registry, || server.tunnel_of("alice").lanes().len() == 2).await;
    let more = [(small().await, app.request().await), (small().await, app.request().await)];
    let mut streams: Vec<usize> = server.tunnel_of("alice").lanes().iter().map(|lane| lane.streams()).collect();
    streams.sort_unstable();
    assert_eq!(streams, [2, 2], "the download and the first beside it; the others");
    drop((first, more, big));
}

#[tokio::test]
async fn with_all_lanes_full_a_tunnel_is_busy() {
    let server = TestServer::start(&[("limits.per_tunnel.streams_per_lane", "1")]);
    let mut app = Script::start().await;
    let mut agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut open = Vec::new();
    for count in 1..=4 {
        let visitor = visitor::raw(server.public, "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n").await;
        open.push((visitor, app.request().await));
        let wanted = 4.min(count + 1);
        agent
            .reaches("another lane", |state| matches!(state, State::Connected { lanes, .. } if *lanes == wanted))
            .await;
        until("another lane", &server.registry, || server.tunnel_of("alice").lanes().len() == wanted).await;
    }
    let busy = fetch(server.public, "alice", "/").await;
    assert_eq!((busy.status, busy.header("x-adit-error")), (StatusCode::SERVICE_UNAVAILABLE, "tunnel_busy"));
}
