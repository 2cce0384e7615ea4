//! Agents that break the multiplexer's rules, or keep to them and mean harm.

use std::time::Duration;

use adit::protocol::control::Control;
use adit::protocol::json;
use http::Method;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::Bystander;
use super::raw::{ACK, CONTROL, DATA, RST, RawAgent, SYN, WINDOW_UPDATE, answer, data, data_header, frame, heartbeat};
use crate::harness::visitor::{self, fetch, http2_request};
use crate::harness::{TestServer, name, soon, spawn, until, until_idle};

#[tokio::test]
async fn whoever_breaks_the_rules_of_the_multiplexer_ends_its_own_session_and_no_other() {
    let server = TestServer::start(&[]);
    let alice = Bystander::connect(&server).await;
    let cases: [(&str, Vec<u8>); 10] = [
        ("garbage", vec![0xa5; 100_000]),
        ("thousands of streams", (1..10_000).flat_map(|at| frame(WINDOW_UPDATE, SYN, 1 + 2 * at, 0)).collect()),
        ("thousands of streams with data", (1..10_000).flat_map(|at| data(SYN, 1 + 2 * at, &[7; 100])).collect()),
        ("a stream with the server's number", frame(WINDOW_UPDATE, SYN, 2, 0)),
        ("the control stream again", frame(WINDOW_UPDATE, SYN, CONTROL, 0)),
        ("a giant frame", frame(DATA, 0, CONTROL, u32::MAX)),
        ("a large frame", frame(DATA, 0, CONTROL, 1024 * 1024)),
        ("a window that overflows", frame(WINDOW_UPDATE, 0, CONTROL, u32::MAX).repeat(2)),
        ("no message", data(0, CONTROL, &[0xff; 100])),
        ("a goodbye in the middle", [frame(3, 0, 0, 0), vec![0xa5; 100]].concat()),
    ];
    for (what, bytes) in cases {
        let mut bob = RawAgent::connect(&server).await;
        bob.say(&bytes).await;
        alice.is_served(&server, what).await;
        bob.ended(&server, what).await;
        nothing_waits(&server).await;
    }
    alice.is_served(&server, "after all of it").await;
}

#[tokio::test]
async fn frames_for_streams_that_do_not_exist_are_nobodys() {
    let server = TestServer::start(&[]);
    let alice = Bystander::connect(&server).await;
    let mut bob = RawAgent::connect(&server).await;
    for at in 0..2_000 {
        bob.say(&data(0, 1000 + at, &[7; 10_000])).await;
        bob.say(&frame(WINDOW_UPDATE, 0, 1000 + at, u32::MAX)).await;
    }
    alice.is_served(&server, "twenty megabytes for nobody").await;
    // It still works, if it wants to.
    let (answered, ()) = tokio::join!(fetch(server.public, "bob", "/"), async {
        let stream = bob.request().await;
        let mut bytes = answer();
        bytes.extend_from_slice(&data_header(2));
        bytes.extend_from_slice(b"ok");
        adit::protocol::frame::put_end(&mut bytes);
        bob.say(&data(ACK, stream, &bytes)).await;
    });
    assert_eq!(answered.text(), "ok");
    nothing_waits(&server).await;
}

/// Nothing waits for visitors any more, or in a moment: a stream ends a little after its exchange.
async fn nothing_waits(server: &TestServer) {
    let wait = async {
        while server.unread.bytes() > 0 {
            tokio::task::yield_now().await;
        }
    };
    soon("nothing that waits", wait).await;
}

/// An HTTP/2 visitor that takes the head of its answer and nothing of the body.
async fn takes_nothing(server: &TestServer) -> hyper::client::conn::http2::SendRequest<visitor::StreamBody> {
    let socket = TcpStream::connect(server.public).await.unwrap();
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = builder.initial_stream_window_size(0).handshake(TokioIo::new(socket)).await.unwrap();
    spawn(connection);
    sender
}

#[tokio::test]
async fn tiny_frames_on_answers_that_nobody_reads_do_not_fill_the_server() {
    let server = TestServer::start(&[]);
    let alice = Bystander::connect(&server).await;
    let mut bob = RawAgent::connect(&server).await;
    let mut visitor = takes_nothing(&server).await;
    let asked = visitor.send_request(http2_request(Method::GET, "bob", "/", ""));
    let (head, stream) = tokio::join!(asked, async {
        let stream = bob.request().await;
        bob.say(&data(ACK, stream, &answer())).await;
        stream
    });
    let mut begun = answer();
    begun.clear();
    begun.extend_from_slice(&data_header(1 << 20));
    bob.say(&data(0, stream, &begun)).await;
    let tiny = data(0, stream, b"x").repeat(1000);
    let mut most = 0;
    for _ in 0..250 {
        bob.say(&tiny).await;
        most = most.max(server.unread.bytes());
    }
    let reset = async {
        loop {
            let frame = bob.frame().await.expect("the session has ended");
            if frame.stream == stream && frame.flags & RST != 0 {
                return;
            }
        }
    };
    soon("the end of that stream", reset).await;
    assert!(most <= 17_000 * 65, "{most} bytes waited");
    alice.is_served(&server, "a quarter of a million frames of one byte").await;
    nothing_waits(&server).await;
    drop((head, visitor));
    until_idle(&server.open, crate::harness::PATIENCE).await;
    nothing_waits(&server).await;
}

#[tokio::test]
async fn answers_beyond_what_may_wait_are_cut_and_not_kept() {
    let limit = 4 * 1024 * 1024;
    let server = TestServer::start(&[("limits.unread_answers", &limit.to_string())]);
    let alice = Bystander::connect(&server).await;
    let mut bob = RawAgent::connect(&server).await;
    let mut visitor = takes_nothing(&server).await;
    let (mut heads, mut most) = (Vec::new(), 0);
    for _ in 0..40 {
        let asked = visitor.send_request(http2_request(Method::GET, "bob", "/", ""));
        let (head, ()) = tokio::join!(asked, async {
            let stream = bob.request().await;
            let mut bytes = answer();
            bytes.extend_from_slice(&data_header(1 << 20));
            bob.say(&data(ACK, stream, &bytes)).await;
            for _ in 0..7 {
                bob.say(&data(0, stream, &[7; 32 * 1024])).await;
            }
            most = most.max(server.unread.bytes());
        });
        // One that is cut at once has none.
        heads.push(head);
    }
    // All that was sent has come when this is answered.
    bob.say(&data(0, CONTROL, &heartbeat())).await;
    alice.is_served(&server, "nine megabytes that nobody reads").await;
    most = most.max(server.unread.bytes());
    assert!(most > limit / 2, "only {most} bytes waited");
    assert!(most <= limit + 40 * 64 * 1024, "{most} bytes waited");
    drop((heads, visitor));
    until_idle(&server.open, crate::harness::PATIENCE).await;
    nothing_waits(&server).await;
    alice.is_served(&server, "afterwards").await;
}

#[tokio::test]
async fn an_agent_that_takes_nothing_is_given_up() {
    // Ten heartbeats after the pipe has taken its last byte.
    let server = TestServer::start(&[("tunnel.heartbeat", "600ms")]);
    let alice = Bystander::connect(&server).await;
    let bob = RawAgent::connect(&server).await;
    let RawAgent { read, mut write } = bob;
    // It says that it lives, and reads nothing.
    let beats = spawn(async move {
        let mut beat = tokio::time::interval(Duration::from_millis(50));
        loop {
            beat.tick().await;
            let bytes = data(0, CONTROL, &heartbeat());
            if tokio::io::AsyncWriteExt::write_all(&mut write, &bytes).await.is_err() {
                return;
            }
        }
    });
    let upload = "x".repeat(300 * 1024);
    let head = format!("POST / HTTP/1.1\r\nHost: bob.localhost\r\nContent-Length: {}\r\n\r\n", upload.len() * 2);
    let mut uploads = Vec::new();
    for _ in 0..100 {
        let (head, upload) = (head.clone(), upload.clone());
        uploads.push(spawn(async move {
            let mut socket = visitor::raw(server.public, &head).await;
            let _ = tokio::io::AsyncWriteExt::write_all(&mut socket, upload.as_bytes()).await;
            socket
        }));
    }
    alice.is_served(&server, "thirty megabytes for an agent that takes nothing").await;
    until("the end of that lane", &server.registry, || server.registry.by_name(&name("bob")).is_none()).await;
    alice.is_served(&server, "after that").await;
    soon("the end of the pipe", beats).await.unwrap();
    for upload in uploads {
        upload.abort();
    }
    drop(read);
}

#[tokio::test]
async fn an_agent_that_is_silent_is_given_up() {
    let server = TestServer::start(&[("tunnel.heartbeat", "1s")]);
    let alice = Bystander::connect(&server).await;
    let mut bob = RawAgent::connect(&server).await;
    bob.ended(&server, "the end of a silent lane").await;
    alice.is_served(&server, "after that").await;
}

#[tokio::test]
async fn a_flood_on_the_control_stream_keeps_nobody_waiting() {
    let server = TestServer::start(&[]);
    let alice = Bystander::connect(&server).await;
    let offer = |at: u64| Control::Services { change: at, services: Vec::new(), required: Vec::new() };
    let draining = Control::Draining { deadline_s: 0.001 };
    let floods: [(&str, Vec<u8>); 3] = [
        ("heartbeats", heartbeat().repeat(1000)),
        ("changes", (1..1000).flat_map(|at| json::encode(&offer(at)).unwrap()).collect()),
        ("goodbyes", json::encode(&draining).unwrap().repeat(1000)),
    ];
    for (what, flood) in floods {
        let bob = RawAgent::connect(&server).await;
        let RawAgent { mut read, mut write } = bob;
        // Read by somebody, so that windows are granted.
        let reading = spawn(async move {
            let mut space = vec![0; 64 * 1024];
            while tokio::io::AsyncReadExt::read(&mut read, &mut space).await.is_ok_and(|n| n > 0) {}
        });
        let flooding = spawn(async move {
            for piece in flood.chunks(1000).cycle().take(3000) {
                if tokio::io::AsyncWriteExt::write_all(&mut write, &data(0, CONTROL, piece)).await.is_err() {
                    return;
                }
            }
        });
        for _ in 0..20 {
            alice.is_served(&server, what).await;
        }
        soon("the end of the flood", flooding).await.unwrap();
        reading.abort();
        let _ = reading.await;
        until("the end of bob's tunnel", &server.registry, || server.registry.by_name(&name("bob")).is_none()).await;
    }
}
