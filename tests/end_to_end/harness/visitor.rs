//! Visitors: HTTP requests over a connection of their own, with every way an answer can end kept apart.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::{soon, spawn};

/// An answer that has arrived to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// One keep-alive connection to the public port.
pub struct Visitor {
    sender: SendRequest<Full<Bytes>>,
}

impl Visitor {
    pub async fn connect(public: SocketAddr) -> Self {
        let socket = soon("a public port", TcpStream::connect(public)).await.unwrap();
        let (sender, connection) = handshake(TokioIo::new(socket)).await.unwrap();
        spawn(connection);
        Self { sender }
    }

    /// Sends a request and gives the answer back when its head is there.
    pub async fn begin(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<http::Response<Incoming>> {
        soon("the head of an answer", self.sender.send_request(request)).await
    }

    /// Sends a request and reads the answer to its end, which must be a proper one.
    pub async fn ask(&mut self, request: Request<Full<Bytes>>) -> Answer {
        let (head, body) = self.begin(request).await.unwrap().into_parts();
        let body = soon("the whole body", body.collect()).await.expect("the answer broke off").to_bytes();
        Answer { status: head.status, headers: head.headers, body }
    }
}

/// One HTTP/2 connection to the public port, without TLS.
pub struct Http2Visitor {
    sender: http2::SendRequest<StreamBody>,
    /// Ends when the connection has.
    pub connection: JoinHandle<hyper::Result<()>>,
}

/// A request's body that the test sends piece by piece.
pub type StreamBody = BoxBody<Bytes, Infallible>;

impl Http2Visitor {
    pub async fn connect(public: SocketAddr) -> Self {
        let socket = soon("a public port", TcpStream::connect(public)).await.unwrap();
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.max_header_list_size(1 << 20);
        let (sender, connection) = builder.handshake(TokioIo::new(socket)).await.unwrap();
        Self { sender, connection: spawn(connection) }
    }

    /// What sends further requests on it, from other tasks.
    pub fn sender(&self) -> http2::SendRequest<StreamBody> {
        self.sender.clone()
    }

    /// Sends a request and gives the answer back when its head is there.
    pub async fn begin(&self, request: Request<StreamBody>) -> hyper::Result<http::Response<Incoming>> {
        soon("the head of an answer", self.sender.clone().send_request(request)).await
    }

    /// Sends requests at once and reads all answers, in the order of the requests.
    pub async fn ask_at_once(&self, requests: impl Iterator<Item = Request<StreamBody>>) -> Vec<Answer> {
        join_all(requests.map(async |request| self.ask(request).await.0)).await
    }

    /// Sends a request and reads the answer to its end: body and trailers.
    pub async fn ask(&self, request: Request<StreamBody>) -> (Answer, HeaderMap) {
        let (head, body) = self.begin(request).await.unwrap().into_parts();
        let body = soon("the whole body", body.collect()).await.expect("the answer broke off");
        let trailers = body.trailers().cloned().unwrap_or_default();
        (Answer { status: head.status, headers: head.headers, body: body.to_bytes() }, trailers)
    }
}

/// An HTTP/2 request for `name` below `localhost`.
pub fn http2_request(method: Method, name: &str, path: &str, body: impl Into<Bytes>) -> Request<StreamBody> {
    let request = Request::builder().method(method).uri(format!("http://{name}.localhost{path}"));
    request.body(Full::new(body.into()).boxed()).unwrap()
}

/// `GET` for `name` below `localhost`.
pub fn get(name: &str, path: &str) -> Request<Full<Bytes>> {
    request(Method::GET, name, path, "")
}

/// Any request for `name` below `localhost`.
pub fn request(method: Method, name: &str, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path).header("host", format!("{name}.localhost"));
    request.body(Full::new(body.into())).unwrap()
}

/// One `GET` on a fresh connection.
pub async fn fetch(public: SocketAddr, name: &str, path: &str) -> Answer {
    Visitor::connect(public).await.ask(get(name, path)).await
}

/// Sends many requests at once until something else comes than `fine`: what a limit allows comes back while a test runs, and
/// what is a little beyond it only waits. `request` makes each of them.
pub async fn first_refusal(
    public: SocketAddr,
    fine: StatusCode,
    mut request: impl FnMut() -> Request<StreamBody>,
) -> Answer {
    let visitor = Http2Visitor::connect(public).await;
    let refused = async {
        loop {
            let answers = visitor.ask_at_once((0..50).map(|_| request())).await;
            if let Some(refused) = answers.into_iter().find(|answer| answer.status != fine) {
                return refused;
            }
        }
    };
    soon("a refusal", refused).await
}

/// A connection on which a test speaks byte by byte.
pub async fn raw(public: SocketAddr, text: &str) -> TcpStream {
    let mut socket = soon("a public port", TcpStream::connect(public)).await.unwrap();
    socket.write_all(text.as_bytes()).await.unwrap();
    socket
}

/// Reads until `end` has come, and gives everything up to there.
pub async fn read_until(socket: &mut TcpStream, end: &str) -> String {
    let mut got = Vec::new();
    let read = async {
        let mut byte = [0];
        while !got.ends_with(end.as_bytes()) {
            if socket.read(&mut byte).await.unwrap() == 0 {
                panic!("the connection ended before {end:?}: {:?}", String::from_utf8_lossy(&got));
            }
            got.push(byte[0]);
        }
    };
    soon(end, read).await;
    String::from_utf8(got).unwrap()
}

/// Reads to the end of the connection.
pub async fn read_to_end(socket: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut got = Vec::new();
    soon("the end of the connection", socket.read_to_end(&mut got)).await?;
    Ok(got)
}
