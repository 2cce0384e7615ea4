//! A blocking HTTP/1.1 client for commands: one connection, one deadline for all of its requests.
//!
//! The commands that use it run no other asynchronous code, so the connection has a runtime of its own.

use std::error::Error as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap};
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

/// Maximum size of a response's head in bytes, and number of its fields.
const MAX_HEAD: usize = 16 * 1024;
const MAX_FIELDS: usize = 64;
/// Maximum size of a response's body in bytes. A thousand agents take a few hundred KiB.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// How many attempts to make if the server closes the connection without a response, or responds with [`PORT_BUSY`].
pub(super) const ATTEMPTS: u32 = 5;

/// The error code of a server, with the status 503, when all of its admin connections are in use.
pub(super) const PORT_BUSY: &str = "port_busy";

/// Waits between two attempts.
#[expect(clippy::disallowed_methods, reason = "there is no runtime here to block")]
pub(super) fn pause() {
    std::thread::sleep(Duration::from_millis(200));
}

/// Returns whether the peer has closed the connection.
pub(super) fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// A connection to a server. It carries one request at a time.
pub(super) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    /// Drives the connection.
    driver: JoinSet<hyper::Result<()>>,
    runtime: Runtime,
    host: HeaderValue,
    /// When everything has to be complete.
    deadline: Instant,
}

/// The head of a response. Its body has to be read before the next request.
pub(super) struct Response {
    pub(super) status: u16,
    headers: HeaderMap,
    body: Incoming,
}

impl Response {
    /// Returns the value of a field, unless it is missing or occurs more than once.
    pub(super) fn field(&self, name: &str) -> Option<&[u8]> {
        let mut all = self.headers.get_all(name).iter();
        all.next().filter(|_| all.next().is_none()).map(HeaderValue::as_bytes)
    }
}

impl Connection {
    /// Connects. Connecting and all requests must be complete at `deadline`.
    ///
    /// # Errors
    /// The server cannot be reached, or not in time.
    pub(super) fn open(address: SocketAddr, deadline: Instant) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut driver = JoinSet::new();
        let connect = async {
            let stream = TcpStream::connect(address).await?;
            let mut builder = Builder::new();
            builder.max_buf_size(MAX_HEAD).max_headers(MAX_FIELDS);
            let (sender, connection) =
                builder.handshake(TokioIo::new(stream)).await.map_err(|error| io_error(&error))?;
            driver.spawn(connection);
            Ok(sender)
        };
        let sender = within(&runtime, deadline, connect)?;
        let host = HeaderValue::try_from(address.to_string()).map_err(io::Error::other)?;
        Ok(Self { sender, driver, runtime, host, deadline })
    }

    /// Sends a GET request, and reads the head of the response.
    ///
    /// # Errors
    /// The deadline has passed, the connection has failed, or the response is not HTTP.
    pub(super) fn get(&mut self, path: &str, fields: &[(&'static str, &str)]) -> io::Result<Response> {
        self.request(Method::GET, path, fields)
    }

    /// As [`Connection::get`], with another method and without a body.
    ///
    /// # Errors
    /// As [`Connection::get`].
    pub(super) fn request(
        &mut self,
        method: Method,
        path: &str,
        fields: &[(&'static str, &str)],
    ) -> io::Result<Response> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.host);
        for (name, value) in fields {
            let mut value = HeaderValue::try_from(*value).map_err(io::Error::other)?;
            value.set_sensitive(true);
            request = request.header(*name, value);
        }
        let request = request.body(Empty::new()).map_err(io::Error::other)?;
        let (sender, driver) = (&mut self.sender, &mut self.driver);
        let exchange = async {
            let sent = match sender.ready().await {
                Ok(()) => sender.send_request(request).await,
                Err(closed) => Err(closed),
            };
            match sent {
                Err(error) if error.is_closed() => match driver.join_next().await {
                    // The driver knows why it has closed the connection.
                    Some(Ok(Err(cause))) => Err(io_error(&cause)),
                    _ => Err(io_error(&error)),
                },
                sent => sent.map_err(|error| io_error(&error)),
            }
        };
        let (head, body) = within(&self.runtime, self.deadline, exchange)?.into_parts();
        Ok(Response { status: head.status.as_u16(), headers: head.headers, body })
    }

    /// Reads the body of a response. It must have a length, which the server knows before it sends.
    ///
    /// # Errors
    /// The deadline has passed, the connection has failed, or the body has no length or is too long.
    pub(super) fn body(&self, response: Response) -> io::Result<Bytes> {
        let length =
            response.field(CONTENT_LENGTH.as_str()).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        let length: usize = length.ok_or_else(|| io::Error::other("its answer does not say how long it is"))?;
        if length > MAX_BODY {
            return Err(io::Error::other("its answer is too long"));
        }
        let collect = async { response.body.collect().await.map_err(|error| io_error(&error)) };
        Ok(within(&self.runtime, self.deadline, collect)?.to_bytes())
    }
}

/// Runs `work` on `runtime` until `deadline`.
fn within<T>(runtime: &Runtime, deadline: Instant, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "it takes too long");
    // Nothing begins after the deadline.
    if Instant::now() >= deadline {
        return Err(late());
    }
    runtime.block_on(async { timeout_at(deadline.into(), work).await.unwrap_or_else(|_| Err(late())) })
}

/// Converts an error of the HTTP library. A connection that has ended is [`io::ErrorKind::UnexpectedEof`].
fn io_error(error: &hyper::Error) -> io::Error {
    if let Some(source) = error.source() {
        if let Some(cause) = source.downcast_ref::<io::Error>() {
            return io::Error::new(cause.kind(), cause.to_string());
        }
        if let Some(cause) = source.downcast_ref::<hyper::Error>() {
            return io_error(cause);
        }
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return io::Error::new(io::ErrorKind::UnexpectedEof, "it has closed the connection");
    }
    if error.is_parse_too_large() {
        return io::Error::other("its answer is too long");
    }
    // It does not parse, or came before there was a request.
    io::Error::other("it speaks no HTTP")
}

/// Returns where a program on this machine reaches a listener at `listens`.
pub(super) fn local_address(listens: SocketAddr) -> SocketAddr {
    let ip = match listens.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        // `[::]` accepts IPv4, too, and means `0.0.0.0` where there is no IPv6.
        IpAddr::V6(ip) if ip == Ipv6Addr::UNSPECIFIED => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listens.port())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Responds to each request with the next of these. Returns what was received until the connection ended.
    #[expect(clippy::disallowed_methods, reason = "there is no runtime here to block")]
    fn responding(responses: &'static [&'static str]) -> (SocketAddr, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serve = move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut received = Vec::new();
            for (sent, response) in responses.iter().enumerate() {
                let mut piece = [0; 1024];
                while received.windows(4).filter(|window| window == b"\r\n\r\n").count() <= sent {
                    let read = stream.read(&mut piece).unwrap();
                    received.extend_from_slice(&piece[..read]);
                }
                stream.write_all(response.as_bytes()).unwrap();
            }
            // Until the client closes the connection.
            let _ = stream.read_to_end(&mut received);
            String::from_utf8(received).unwrap()
        };
        (address, thread::spawn(serve))
    }

    fn connect(address: SocketAddr) -> Connection {
        Connection::open(address, Instant::now() + Duration::from_secs(20)).unwrap()
    }

    #[test]
    fn an_answer_has_a_status_and_fields() {
        let (address, server) = responding(&["HTTP/1.1 200 OK\r\nA: b\r\na-b: 1\r\nA-B: 2\r\n\r\n{}"]);
        let response = connect(address).get("/", &[]).unwrap();
        assert_eq!(response.status, 200);
        assert_eq!((response.field("a"), response.field("c"), response.field("a-b")), (Some(&b"b"[..]), None, None));
        server.join().unwrap();
        for (partial, kind) in
            [("HTTP/1.1 200 OK\r\n", io::ErrorKind::TimedOut), ("SSH-2.0-x\r\n\r\n", io::ErrorKind::Other)]
        {
            let (address, server) = responding(Box::leak(Box::new([partial])));
            let mut connection = Connection::open(address, Instant::now() + Duration::from_secs(2)).unwrap();
            assert_eq!(connection.get("/", &[]).err().unwrap().kind(), kind, "{partial}");
            drop(connection);
            server.join().unwrap();
        }
    }

    #[test]
    fn one_connection_carries_one_request_after_the_other() {
        let responses =
            &["HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none", "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"];
        let (address, server) = responding(responses);
        let mut connection = connect(address);
        let response = connection.get("/a", &[]).unwrap();
        assert_eq!((response.status, &connection.body(response).unwrap()[..]), (200, &b"one"[..]));
        let response = connection.get("/b", &[("X", "y")]).unwrap();
        assert_eq!((response.status, connection.body(response).unwrap()), (404, Bytes::new()));
        drop(connection);
        let received = server.join().unwrap();
        assert_eq!(
            received,
            format!("GET /a HTTP/1.1\r\nhost: {address}\r\n\r\nGET /b HTTP/1.1\r\nhost: {address}\r\nx: y\r\n\r\n")
        );
    }

    #[test]
    fn all_of_it_has_one_deadline() {
        let (address, server) = responding(&["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n1"]);
        let mut connection = connect(address);
        let response = connection.get("/", &[]).unwrap();
        connection.deadline = Instant::now() + Duration::from_millis(50);
        assert_eq!(connection.body(response).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(connection.get("/", &[]).err().unwrap().kind(), io::ErrorKind::TimedOut);
        drop(connection);
        server.join().unwrap();
    }

    #[test]
    fn an_answer_has_bounds() {
        let too_long = "HTTP/1.1 200 OK\r\nContent-Length: 16777217\r\n\r\n";
        for (response, why) in [(too_long, "too long"), ("HTTP/1.1 200 OK\r\n\r\n", "does not say")] {
            let (address, server) = responding(Box::leak(Box::new([response])));
            let mut connection = connect(address);
            let response = connection.get("/", &[]).unwrap();
            assert!(connection.body(response).unwrap_err().to_string().contains(why));
            drop(connection);
            server.join().unwrap();
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "there is no runtime here to block")]
    fn data_before_a_request_is_no_http() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"SSH-2.0-x\r\n").unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let mut connection = connect(address);
        let error = connection.get("/", &[]).err().unwrap();
        assert_eq!(error.to_string(), "it speaks no HTTP");
        drop(connection);
        server.join().unwrap();
    }

    #[test]
    fn a_server_that_closes_without_an_answer_is_recognized() {
        let (address, server) = closing();
        let error = connect(address).get("/", &[]).err().unwrap();
        assert!(is_closed(&error), "{error:?}");
        server.join().unwrap();
    }

    #[expect(clippy::disallowed_methods, reason = "there is no runtime here to block")]
    fn closing() -> (SocketAddr, thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (address, thread::spawn(move || drop(listener.accept().unwrap())))
    }
}
