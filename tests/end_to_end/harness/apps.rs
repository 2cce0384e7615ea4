//! Local applications. [`echo`] says what it was asked; [`Script`] gives the test every byte.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::{soon, spawn};

/// Answers with what it was asked: method and target, then each field, then an empty line and the body.
pub async fn echo() -> SocketAddr {
    with(|request| async move {
        let (head, body) = request.into_parts();
        let mut text = format!("{} {}\n", head.method, head.uri);
        for (name, value) in &head.headers {
            text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
        }
        text.push('\n');
        let mut answer = text.into_bytes();
        if let Ok(body) = body.collect().await {
            answer.extend_from_slice(&body.to_bytes());
        }
        Response::new(Full::new(Bytes::from(answer)))
    })
    .await
}

/// Answers with a fixed text.
pub async fn fixed(text: &'static str) -> SocketAddr {
    with(move |_| async move { Response::new(Full::new(Bytes::from_static(text.as_bytes()))) }).await
}

/// Answers with what `answer` makes of each request.
pub async fn with<F, A>(answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let mut builder = http1::Builder::new();
            spawn(builder.max_headers(600).serve_connection(TokioIo::new(socket), service).with_upgrades());
        }
    });
    address
}

/// An address where nothing listens.
pub async fn nothing() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// An application whose every connection is the test's to speak on.
pub struct Script {
    pub address: SocketAddr,
    connections: mpsc::UnboundedReceiver<TcpStream>,
}

impl Script {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, connections) = mpsc::unbounded_channel();
        spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                if sender.send(socket).is_err() {
                    return;
                }
            }
        });
        Self { address, connections }
    }

    /// The next connection.
    pub async fn connection(&mut self) -> TcpStream {
        soon("a request", self.connections.recv()).await.unwrap()
    }

    /// The next connection, after the head of its first request was read.
    pub async fn request(&mut self) -> (TcpStream, String) {
        let mut socket = self.connection().await;
        let head = super::visitor::read_until(&mut socket, "\r\n\r\n").await;
        (socket, head)
    }
}

/// Waits until the other side has left a connection, within `limit`; what it still says is thrown away.
pub async fn left(socket: &mut TcpStream, limit: Duration) {
    let mut buffer = [0; 4096];
    let gone = async { while matches!(socket.read(&mut buffer).await, Ok(1..)) {} };
    tokio::time::timeout(limit, gone).await.expect("the other side did not leave");
}
