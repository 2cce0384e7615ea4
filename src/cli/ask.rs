//! Asking a server by HTTP, on one connection and within one deadline.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

/// Bytes of an answer's head, and fields in it.
const MOST_HEAD: usize = 16 * 1024;
const MOST_FIELDS: usize = 64;
/// Bytes of an answer's body; a thousand agents take a few hundred KiB.
const MOST_BODY: usize = 16 * 1024 * 1024;

/// How often a server is asked that closes the connection instead of an answer, or has none left.
pub(super) const TRIES: u32 = 5;

/// What a server's answer says, with the status 503, when it has no connection left.
pub(super) const PORT_BUSY: &str = "port_busy";

/// Between two tries.
#[expect(clippy::disallowed_methods, reason = "there is no runtime here to block")]
pub(super) fn pause() {
    std::thread::sleep(Duration::from_millis(200));
}

/// Whether the other side has ended the connection.
pub(super) fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// A connection to a server, for one request after the other.
pub(super) struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    /// When all of it has to be over.
    end: Instant,
    /// What has come and was not looked at yet.
    waiting: Vec<u8>,
}

/// The head of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    fields: Vec<(String, Vec<u8>)>,
}

impl Head {
    /// What a field says that is there once.
    pub(super) fn field(&self, name: &str) -> Option<&[u8]> {
        let mut all = self.fields.iter().filter(|(its, _)| its.eq_ignore_ascii_case(name));
        all.next().filter(|_| all.next().is_none()).map(|(_, value)| value.as_slice())
    }
}

impl Connection {
    /// Connects; all of it, connecting and what is asked, has to be over at `end`.
    ///
    /// # Errors
    /// Nobody is there, or it takes too long.
    pub(super) fn open(address: SocketAddr, end: Instant) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, left_until(end)?)?;
        Ok(Self { stream, address, end, waiting: Vec::new() })
    }

    /// Asks for a page, and reads the head of the answer; its body has to be read before the next request.
    ///
    /// # Errors
    /// The deadline, the connection, or an answer that is no HTTP.
    pub(super) fn get(&mut self, path: &str, fields: &[(&str, &str)]) -> io::Result<Head> {
        self.ask("GET", path, fields)
    }

    /// As [`Connection::get`], by another method and without a body.
    ///
    /// # Errors
    /// As [`Connection::get`].
    pub(super) fn ask(&mut self, method: &str, path: &str, fields: &[(&str, &str)]) -> io::Result<Head> {
        let mut request = Zeroizing::new(format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.address));
        if method != "GET" {
            request.push_str("Content-Length: 0\r\n");
        }
        for (name, value) in fields {
            // Writing to a text cannot fail.
            let _ = write!(request, "{name}: {value}\r\n");
        }
        request.push_str("\r\n");
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write_all(request.as_bytes())?;
        loop {
            if let Some((head, length)) = head_in(&self.waiting)? {
                self.waiting.drain(..length);
                return Ok(head);
            }
            if self.waiting.len() > MOST_HEAD {
                return Err(io::Error::other("its answer is too long"));
            }
            self.read()?;
        }
    }

    /// The body behind `head`. It has a length: the server knows it before it sends.
    ///
    /// # Errors
    /// The deadline, the connection, or a body that is too long.
    pub(super) fn body(&mut self, head: &Head) -> io::Result<Vec<u8>> {
        let length = head.field("content-length").and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        let length: usize = length.ok_or_else(|| io::Error::other("its answer does not say how long it is"))?;
        if length > MOST_BODY {
            return Err(io::Error::other("its answer is too long"));
        }
        while self.waiting.len() < length {
            self.read()?;
        }
        Ok(self.waiting.drain(..length).collect())
    }

    fn read(&mut self) -> io::Result<()> {
        let mut piece = [0; 16 * 1024];
        self.stream.set_read_timeout(Some(self.left()?))?;
        match self.stream.read(&mut piece) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has closed the connection")),
            Ok(read) => {
                self.waiting.extend_from_slice(&piece[..read]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(too_late()),
            Err(error) => Err(error),
        }
    }

    fn left(&self) -> io::Result<Duration> {
        left_until(self.end)
    }
}

fn left_until(end: Instant) -> io::Result<Duration> {
    match end.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(too_late()),
        left => Ok(left),
    }
}

fn too_late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "it takes too long")
}

/// The head at the beginning of `bytes`, and how long it is; `None`, if it has not all come.
fn head_in(bytes: &[u8]) -> io::Result<Option<(Head, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut answer = httparse::Response::new(&mut fields);
    match answer.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => {
            let status = answer.code.unwrap_or_default();
            let fields = answer.headers.iter().map(|field| (field.name.to_owned(), field.value.to_vec())).collect();
            Ok(Some((Head { status, fields }, length)))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(_) => Err(io::Error::other("it speaks no HTTP")),
    }
}

/// Where a program on the same machine reaches what listens there.
pub(super) fn from_here(listens: SocketAddr) -> SocketAddr {
    let ip = match listens.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        // `[::]` takes IPv4 too, and is `0.0.0.0` where there is no IPv6.
        IpAddr::V6(ip) if ip == Ipv6Addr::UNSPECIFIED => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listens.port())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn an_answer_has_a_status_and_fields() {
        let (head, length) = head_in(b"HTTP/1.1 200 OK\r\nA: b\r\na-b: 1\r\nA-B: 2\r\n\r\n{}").unwrap().unwrap();
        assert_eq!((head.status, length), (200, 41));
        assert_eq!((head.field("a"), head.field("c"), head.field("a-b")), (Some(&b"b"[..]), None, None));
        assert_eq!(head_in(b"HTTP/1.1 200 OK\r\n").unwrap(), None);
        assert!(head_in(b"SSH-2.0-x\r\n\r\n").is_err());
    }

    /// Someone who answers each request with the next of these; gives what was asked, when the connection has ended.
    #[expect(clippy::disallowed_methods, reason = "there is no runtime here to block")]
    fn answering(answers: &'static [&'static str]) -> (SocketAddr, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serve = move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            for (answered, answer) in answers.iter().enumerate() {
                let mut piece = [0; 1024];
                while asked.windows(4).filter(|window| window == b"\r\n\r\n").count() <= answered {
                    let read = stream.read(&mut piece).unwrap();
                    asked.extend_from_slice(&piece[..read]);
                }
                stream.write_all(answer.as_bytes()).unwrap();
            }
            // Until the other side has had enough.
            let _ = stream.read_to_end(&mut asked);
            String::from_utf8(asked).unwrap()
        };
        (address, thread::spawn(serve))
    }

    #[test]
    fn one_connection_carries_one_request_after_the_other() {
        let answers =
            &["HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none", "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"];
        let (address, server) = answering(answers);
        let mut connection = Connection::open(address, Instant::now() + Duration::from_secs(20)).unwrap();
        let head = connection.get("/a", &[]).unwrap();
        assert_eq!((head.status, connection.body(&head).unwrap()), (200, b"one".to_vec()));
        let head = connection.get("/b", &[("X", "y")]).unwrap();
        assert_eq!((head.status, connection.body(&head).unwrap()), (404, Vec::new()));
        drop(connection);
        let asked = server.join().unwrap();
        assert_eq!(
            asked,
            format!("GET /a HTTP/1.1\r\nHost: {address}\r\n\r\nGET /b HTTP/1.1\r\nHost: {address}\r\nX: y\r\n\r\n")
        );
    }

    #[test]
    fn all_of_it_has_one_deadline() {
        let (address, server) = answering(&["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n1"]);
        let mut connection = Connection::open(address, Instant::now() + Duration::from_secs(20)).unwrap();
        let head = connection.get("/", &[]).unwrap();
        connection.end = Instant::now() + Duration::from_millis(50);
        assert_eq!(connection.body(&head).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(connection.get("/", &[]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(connection);
        server.join().unwrap();
    }

    #[test]
    fn an_answer_has_bounds() {
        let (address, server) = answering(&["HTTP/1.1 200 OK\r\nContent-Length: 16777217\r\n\r\n"]);
        let mut connection = Connection::open(address, Instant::now() + Duration::from_secs(20)).unwrap();
        let head = connection.get("/", &[]).unwrap();
        assert!(connection.body(&head).unwrap_err().to_string().contains("too long"));
        assert!(connection.body(&Head::default()).unwrap_err().to_string().contains("does not say"));
        drop(connection);
        server.join().unwrap();
    }
}
