//! Visitors that leave in the middle of a response: the application's connection ends at once, and is not read to its end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

use crate::harness::visitor::{self, Http2Visitor, http2_request};
use crate::harness::{PATIENCE, TestAgent, TestServer, service, soon, spawn, until_idle};

/// Eight times what an application wrote beyond what its visitor had read: buffers of the system on both ways, which grow
/// under load, the stream's window, and what a visitor's HTTP/2 library takes unread. The applications would write without
/// end.
const MOST_AHEAD: usize = 16 << 20;

/// Small buffers of the system, so that it is adit's that count.
const SMALL: usize = 64 * 1024;

/// How much visitors read before they leave.
const SIZES: [usize; 4] = [1, 100_000, 4 << 20, 32 << 20];

/// An application that answers each request without end.
struct Endless {
    address: SocketAddr,
    /// How much it had written when a connection or a response was ended from outside.
    ended: mpsc::UnboundedReceiver<usize>,
}

impl Endless {
    /// Says `head` after the head of a request, and then writes for as long as it may.
    async fn start(head: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, ended) = mpsc::unbounded_channel();
        spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                SockRef::from(&socket).set_send_buffer_size(SMALL).unwrap();
                let sender = sender.clone();
                spawn(async move {
                    visitor::read_until(&mut socket, "\r\n\r\n").await;
                    socket.write_all(head.as_bytes()).await.unwrap();
                    let (piece, mut written) = (vec![b'x'; 16 * 1024], 0);
                    while let Ok(bytes) = socket.write(&piece).await {
                        written += bytes;
                    }
                    let _ = sender.send(written);
                });
            }
        });
        Self { address, ended }
    }

    /// The same over HTTP/2.
    async fn start_h2c() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, ended) = mpsc::unbounded_channel();
        spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                SockRef::from(&socket).set_send_buffer_size(SMALL).unwrap();
                let sender = sender.clone();
                let answer = hyper::service::service_fn(move |_: Request<Incoming>| {
                    let body = EndlessBody { given: Arc::default(), ended: sender.clone() };
                    std::future::ready(Ok::<_, Infallible>(Response::new(body)))
                });
                let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                spawn(http2.serve_connection(TokioIo::new(socket), answer));
            }
        });
        Self { address, ended }
    }
}

/// A body that tells how much of it was taken when it is dropped.
struct EndlessBody {
    given: Arc<AtomicUsize>,
    ended: mpsc::UnboundedSender<usize>,
}

impl Body for EndlessBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = Bytes::from_static(&[b'x'; 16 * 1024]);
        self.given.fetch_add(piece.len(), Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl Drop for EndlessBody {
    fn drop(&mut self) {
        let _ = self.ended.send(self.given.load(Ordering::Relaxed));
    }
}

/// Asks on a connection of its own, reads `size` bytes and leaves.
async fn leave_connection(to: SocketAddr, size: usize) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(u32::try_from(SMALL).unwrap()).unwrap();
    let mut socket: TcpStream = soon("a public port", socket.connect(to)).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n").await.unwrap();
    let (mut left, mut buffer) = (size, vec![0; 65_536]);
    while left > 0 {
        let most = left.min(buffer.len());
        left -= soon("more", socket.read(&mut buffer[..most])).await.unwrap();
    }
}

/// Asks over HTTP/2, reads `size` bytes and resets the stream. The connection stays.
async fn leave_stream(visitor: &Http2Visitor, size: usize) {
    let mut response = visitor.begin(http2_request(Method::GET, "alice", "/", "")).await.unwrap();
    let mut got = 0;
    while got < size {
        let frame = soon("more", response.body_mut().frame()).await.unwrap().unwrap();
        got += frame.data_ref().map_or(0, Bytes::len);
    }
}

/// Waits until the application has noticed, and checks how much it has written by then.
async fn check(app: &mut Endless, size: usize, how: &str) {
    let written = soon("the end of the application's response", app.ended.recv()).await.unwrap();
    assert!((size..size + MOST_AHEAD).contains(&written), "{how}: {written} bytes were written, {size} were read");
}

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n";

#[tokio::test]
async fn an_http_1_application_is_not_read_to_its_end() {
    let server = TestServer::start(&[]);
    let mut app = Endless::start(HEAD).await;
    let _agent = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let http2 = Http2Visitor::connect(server.public).await;
    for size in SIZES {
        leave_connection(server.public, size).await;
        check(&mut app, size, "HTTP/1.1").await;
        leave_stream(&http2, size).await;
        check(&mut app, size, "HTTP/2").await;
    }
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn an_http_2_application_is_not_read_to_its_end() {
    let server = TestServer::start(&[]);
    let mut app = Endless::start_h2c().await;
    let entry = service("alice", &format!("h2c://{}", app.address), &[]);
    let _agent = TestAgent::connect_with(&server, "alice", vec![entry]).await;
    let http2 = Http2Visitor::connect(server.public).await;
    for size in SIZES {
        leave_connection(server.public, size).await;
        check(&mut app, size, "HTTP/1.1").await;
        leave_stream(&http2, size).await;
        check(&mut app, size, "HTTP/2").await;
    }
    until_idle(&server.open, PATIENCE).await;
}

#[tokio::test]
async fn a_raw_connection_is_not_read_to_its_end() {
    let server = TestServer::start(&[]);
    let mut app = Endless::start("").await;
    let mut entry = service("alice", &app.address.to_string(), &[]);
    entry.insert("kind".to_owned(), "tcp".into());
    let agent = TestAgent::connect_with(&server, "alice", vec![entry]).await;
    let public = crate::raw::public_address(&agent);
    for size in SIZES {
        leave_connection(public, size).await;
        check(&mut app, size, "TCP").await;
    }
    until_idle(&server.open, PATIENCE).await;
}
