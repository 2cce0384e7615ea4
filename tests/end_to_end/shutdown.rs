//! Ends that nobody notices: what is open finishes, what is new goes elsewhere.

use std::time::Duration;

use http::StatusCode;
use tokio::io::AsyncWriteExt;

use crate::harness::apps::{self, Script};
use crate::harness::puppet::{Puppet, hello};
use crate::harness::visitor::{self, fetch};
use crate::harness::{TestAgent, TestServer, soon, until};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole";

#[tokio::test]
async fn a_server_that_stops_lets_open_requests_finish() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut visitor = visitor::raw(server.public, REQUEST).await;
    let (mut local, _) = app.request().await;
    server.begin_stop();
    let public = server.public;
    // No new visitors from now on.
    let refused = async { while tokio::net::TcpStream::connect(public).await.is_ok() {} };
    crate::harness::soon("a closed public port", refused).await;
    local.write_all(ANSWER).await.unwrap();
    visitor::read_until(&mut visitor, "whole").await;
    assert_eq!(server.stop().await.requests_cut, 0);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn visitors_of_an_inherited_socket_wait_until_their_agent_is_back() {
    let public = adit::transport::listen::bind(([127, 0, 0, 1], 0).into(), "public.http").unwrap();
    let server = TestServer::start_on(public.into_std().unwrap());
    let mut early = visitor::raw(server.public, REQUEST).await;
    // It is answered at once what no agent could change.
    assert_eq!(fetch(server.public, "nobody", "/").await.status, StatusCode::NOT_FOUND);
    let mut app = Script::start().await;
    let agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let (mut local, _) = app.request().await;
    local.write_all(ANSWER).await.unwrap();
    assert!(visitor::read_until(&mut early, "whole").await.starts_with("HTTP/1.1 200 OK"));
    agent.stop().await.unwrap();
    let other = TestServer::start(&[]);
    assert_eq!(fetch(other.public, "alice", "/").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_server_does_not_wait_for_ever() {
    let server = TestServer::start(&[("tunnel.drain_timeout", "200ms")]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut visitor = visitor::raw(server.public, REQUEST).await;
    let (_local, _) = app.request().await;
    assert_eq!(server.stop().await.requests_cut, 1);
    assert!(visitor::read_to_end(&mut visitor).await.unwrap_or_default().is_empty());
}

#[tokio::test]
async fn a_session_does_not_outlive_the_drain() {
    let server = TestServer::start(&[("tunnel.drain_timeout", "200ms")]);
    let mut puppet = Puppet::connect(&server, &hello("alice", &["alice"])).await;
    let beat = adit::protocol::json::encode(&adit::protocol::control::Control::Heartbeat).unwrap();
    let _control = puppet.control(&beat).await;
    let _visitor = visitor::raw(server.public, REQUEST).await;
    let _stream = soon("a stream", puppet.streams.recv()).await.unwrap();
    server.begin_stop();
    // The server's runtime lives on: only its tasks can end the session.
    soon("the end of the session", puppet.session.ended()).await;
}

#[tokio::test]
async fn an_agent_that_says_again_and_again_that_it_leaves_is_heard_once() {
    let server = TestServer::start(&[]);
    let mut puppet = Puppet::connect(&server, &hello("alice", &["alice"])).await;
    let _visitor = visitor::raw(server.public, REQUEST).await;
    let _stream = soon("a stream", puppet.streams.recv()).await.unwrap();
    let draining = adit::protocol::control::Control::Draining { deadline_s: 30.0 };
    let mut flood = adit::protocol::json::encode(&draining).unwrap().repeat(100);
    // After all of them, the end of the lane.
    flood.extend([0xff; 8]);
    let before = *server.registry.changes().borrow();
    let _control = puppet.control(&flood).await;
    until("an empty registry", &server.registry, || server.registry.is_empty()).await;
    assert!(*server.registry.changes().borrow() - before < 10, "the registry changed each time");
}

#[tokio::test]
async fn an_agent_that_stops_lets_open_requests_finish_and_takes_no_new_ones() {
    let server = TestServer::start(&[]);
    let mut app = Script::start().await;
    let agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let mut visitor = visitor::raw(server.public, REQUEST).await;
    let (mut local, _) = app.request().await;
    agent.begin_stop();
    until("a name that is let go", &server.registry, || !server.registry.serves_any()).await;
    let refused = fetch(server.public, "alice", "/").await;
    assert_eq!((refused.status, refused.header("x-adit-error")), (StatusCode::SERVICE_UNAVAILABLE, "tunnel_offline"));
    local.write_all(ANSWER).await.unwrap();
    visitor::read_until(&mut visitor, "whole").await;
    agent.ended().await.unwrap();
    until("an empty registry", &server.registry, || server.registry.is_empty()).await;
}

#[tokio::test]
async fn an_idle_agent_and_an_idle_server_stop_at_once() {
    let server = TestServer::start(&[]);
    let agent = TestAgent::connect(&server, "alice", &[("alice", apps::nothing().await)]).await;
    let quick = Duration::from_secs(5);
    tokio::time::timeout(quick, agent.stop()).await.expect("an idle agent stops at once").unwrap();
    let _agent = TestAgent::connect(&server, "alice", &[("alice", apps::nothing().await)]).await;
    let drained = tokio::time::timeout(quick, server.stop()).await.expect("an idle server stops at once");
    assert_eq!(drained.requests_cut, 0);
}
