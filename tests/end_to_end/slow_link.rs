//! Bulk transfers over a link that is slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use adit::agent::State;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::harness::apps::Script;
use crate::harness::{TestAgent, TestServer, soon, spawn, visitor};

/// Bytes per second, each way.
const RATE: usize = 100_000;
const DOWNLOADS: usize = 16;

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut piece = [0; RATE / 50];
    while let Ok(n @ 1..) = from.read(&mut piece).await {
        tokio::time::sleep(Duration::from_secs(1) * n as u32 / RATE as u32).await;
        if to.write_all(&piece[..n]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn bulk_transfers_that_fill_a_slow_link_end_no_lane() {
    let server = TestServer::start(&[("tunnel.heartbeat", "1s")]);
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = relay.local_addr().unwrap();
    let behind = server.tunnel;
    spawn(async move {
        while let Ok((near, _)) = relay.accept().await {
            let (from_agent, to_agent) = near.into_split();
            let (from_server, to_server) = TcpStream::connect(behind).await.unwrap().into_split();
            spawn(carry(from_agent, to_server));
            spawn(carry(from_server, to_agent));
        }
    });
    let mut app = Script::start().await;
    let mut agent = TestAgent::start_at(&[address], server.fingerprint, "alice", &[("alice", app.address)]);
    agent.connected().await;
    let (tunnel, lanes) = (server.tunnel_of("alice"), server.tunnel_of("alice").lanes().len());

    let (moved, more) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let mut downloads = Vec::new();
    for _ in 0..DOWNLOADS {
        let mut visitor = visitor::raw(server.public, "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n").await;
        let (mut local, _) = soon("the request", app.request()).await;
        let (moved, more) = (Arc::clone(&moved), Arc::clone(&more));
        spawn(async move {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
            local.write_all(head).await.unwrap();
            while local.write_all(&[7; 64 * 1024]).await.is_ok() {}
        });
        downloads.push(spawn(async move {
            let mut piece = [0; 16 * 1024];
            while let Ok(n @ 1..) = visitor.read(&mut piece).await {
                moved.fetch_add(n, Ordering::Relaxed);
                more.notify_one();
            }
        }));
    }
    // For longer than heartbeats may be missed; those of the agent wait behind megabytes.
    let enough = RATE * 7;
    soon("seven seconds' worth of downloads", async {
        while moved.load(Ordering::Relaxed) < enough {
            more.notified().await;
        }
    })
    .await;
    let state = agent.reaches("any state", |_| true).await;
    assert!(matches!(state, State::Connected { .. }), "{state:?}");
    assert!(Arc::ptr_eq(&tunnel, &server.tunnel_of("alice")), "the agent has logged in anew");
    assert_eq!(tunnel.lanes().len(), lanes);
    assert!(downloads.iter().all(|download| !download.is_finished()), "a download has ended");
    for download in downloads {
        download.abort();
    }
}
