//! The agent's side of the wire in the test's own hands, to say what no agent would.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit::link::carriers::mux;
use adit::link::carriers::mux::{MuxConfig, Side, WINDOW_GROWTH};
use adit::link::framed::{FrameReader, FrameWriter};
use adit::link::handshake::{receive_answer, send};
use adit::link::session::{Session, Stream};
use adit::protocol::VERSION;
use adit::protocol::decode::{Decoder, Event};
use adit::protocol::exchange::{RequestHead, ResponseHead};
use adit::protocol::frame::{MAX_HEAD, Status};
use adit::protocol::login::{
    AgentInfo, Answer, Compatibility, Hello, Join, Known, Proof, Refused, ServiceKind, ServiceOffer, Welcome,
};
use adit::transport::tls;
use adit::transport::tls::Trust;
use adit::values::{ClientId, Fingerprint, InstanceId, Secret};
use bytes::{BufMut, Bytes};
use http::{HeaderMap, HeaderName, StatusCode, Version};
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{name, soon, spawn, token, until};

/// TLS up, nothing said.
pub async fn dial(address: SocketAddr, fingerprint: Fingerprint) -> TlsStream<TcpStream> {
    dial_after(b"", address, fingerprint).await.unwrap()
}

/// The same with these bytes ahead of TLS.
pub async fn dial_after(
    first: &[u8],
    address: SocketAddr,
    fingerprint: Fingerprint,
) -> std::io::Result<TlsStream<TcpStream>> {
    let config = tls::client(&Trust::Fingerprint(fingerprint)).unwrap();
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(first).await?;
    let host = ServerName::try_from(address.ip().to_string()).unwrap();
    soon("a TLS handshake", TlsConnector::from(config).connect(host, socket)).await
}

/// A proper first word, to be spoilt as needed.
pub fn hello(client: &str, services: &[&str]) -> Hello {
    Hello {
        compatibility: Compatibility { protocol: VERSION, capabilities: Vec::new(), required: Vec::new() },
        client_id: ClientId::new(client).unwrap(),
        instance_id: InstanceId::random().unwrap(),
        proof: Some(Proof::Token(token(client).as_secret().clone())),
        start: None,
        standby: Vec::new(),
        timestamp: now(),
        agent: AgentInfo { name: "puppet".to_owned(), version: "0".to_owned(), os: "test".to_owned(), host: None },
        services: services.iter().map(|s| ServiceOffer::new(name(s), ServiceKind::Http)).collect(),
        join: None,
    }
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A further lane of the tunnel that `welcome` is of.
pub fn join(hello: &Hello, welcome: &Welcome) -> Hello {
    let join = Join { tunnel_id: welcome.tunnel_id, lane_secret: welcome.lane.lane_secret.clone() };
    Hello { proof: None, join: Some(join), ..hello.clone() }
}

pub fn secret(text: &str) -> Secret {
    Secret::new(text)
}

/// Says hello without services, and hears whether the proof is good.
pub async fn ask(server: &super::TestServer, hello: &Hello) -> Result<Known, Refused> {
    let mut pipe = dial(server.tunnel, server.fingerprint).await;
    send(&mut pipe, hello).await.unwrap();
    match soon("the answer to a question", receive_answer(&mut pipe)).await.unwrap() {
        Answer::Known(known) => Ok(known),
        Answer::Refused(refused) => Err(refused),
        Answer::Welcome(_) => panic!("no tunnel was asked for"),
    }
}

/// Says hello and hears the answer; the tunnel has its lane then.
pub async fn log_in(server: &super::TestServer, hello: &Hello) -> Result<(Welcome, TlsStream<TcpStream>), Refused> {
    let mut pipe = dial(server.tunnel, server.fingerprint).await;
    send(&mut pipe, hello).await.unwrap();
    match soon("the answer to a login", receive_answer(&mut pipe)).await.unwrap() {
        Answer::Welcome(welcome) => {
            // The server adds the lane a moment after it has welcomed the agent.
            let has_lane = || {
                let tunnels = server.registry.tunnels_of(&hello.client_id);
                let tunnel = tunnels.iter().find(|tunnel| tunnel.id() == welcome.tunnel_id);
                tunnel.is_none_or(|tunnel| tunnel.lanes().iter().any(|lane| lane.id() == welcome.lane.lane_id))
            };
            until("the lane", &server.registry, has_lane).await;
            // Its names are assigned under the lock that this takes.
            server.registry.release_expired();
            Ok((welcome, pipe))
        }
        Answer::Known(known) => panic!("no tunnel was asked for: {known:?}"),
        Answer::Refused(refused) => Err(refused),
    }
}

/// A lane whose streams are the test's to answer.
pub struct Puppet {
    pub welcome: Welcome,
    pub session: Session,
    pub streams: mpsc::UnboundedReceiver<Stream>,
}

impl Puppet {
    /// Logs in and lays a session over it; opens no control stream.
    pub async fn connect(server: &super::TestServer, hello: &Hello) -> Self {
        let (welcome, pipe) = log_in(server, hello).await.expect("the login was refused");
        let mux = MuxConfig { max_streams: 4000, yield_first: false, window_growth: WINDOW_GROWTH };
        let (session, driver) = mux::session(Box::new(pipe), Side::Agent, mux);
        let (sender, streams) = mpsc::unbounded_channel();
        spawn(driver.run(Duration::from_secs(1), move |stream| {
            let _ = sender.send(stream);
        }));
        Self { welcome, session, streams }
    }

    /// Opens the control stream with these bytes.
    pub async fn control(&self, first: &[u8]) -> Stream {
        self.session.open(first).await.unwrap()
    }
}

/// A request that has reached a puppet, whole.
pub struct Asked {
    pub head: RequestHead,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
    reader: FrameReader,
    pub writer: FrameWriter,
}

impl Puppet {
    /// The next request, read to its end: to `head` alone, if it may become a connection.
    pub async fn request(&mut self) -> Asked {
        let stream = soon("a stream", self.streams.recv()).await.unwrap();
        let mut reader = FrameReader::new(stream.clone(), Decoder::request(MAX_HEAD));
        let mut writer = FrameWriter::new(stream);
        writer.gather().put_u8(Status::Accepted as u8);
        let (mut head, mut body, mut trailers) = (None, Vec::new(), HeaderMap::new());
        let head = loop {
            match soon("a request", reader.event()).await.unwrap() {
                Event::Preface(_) => {}
                Event::Request(request) if request.headers.contains_key("upgrade") => break *request,
                Event::Request(request) => head = Some(*request),
                Event::Data(data) => body.extend_from_slice(&data),
                Event::Trailers(fields) => trailers = *fields,
                Event::End => break head.unwrap(),
                other => panic!("{other:?} is no part of a request"),
            }
        };
        Asked { head, body, trailers, reader, writer }
    }
}

impl Asked {
    /// What the head says under this name; nothing, if it does not.
    pub fn header(&self, name: &str) -> &str {
        self.head.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Answers with a body.
    pub async fn answer(&mut self, body: &'static str) {
        self.head(StatusCode::OK, &[("content-length", body.len().to_string())]).await;
        self.writer.data(Bytes::from_static(body.as_bytes())).await.unwrap();
        self.end().await;
    }

    /// Answers with a head alone.
    pub async fn head(&mut self, status: StatusCode, fields: &[(&'static str, String)]) {
        self.head_after(status, fields, None).await;
    }

    /// The same, and tells how long the application took for it.
    pub async fn head_after(&mut self, status: StatusCode, fields: &[(&'static str, String)], local: Option<Duration>) {
        let headers = fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        let head = ResponseHead { status, version: Version::HTTP_11, headers: headers.collect(), local, reason: None };
        head.put(self.writer.gather()).unwrap();
        self.writer.flush().await.unwrap();
    }

    /// The answer is complete.
    pub async fn end(&mut self) {
        self.writer.end().await.unwrap();
    }

    /// The next bytes of a request that has become a connection.
    pub async fn data(&mut self) -> Bytes {
        match soon("some data", self.reader.event()).await.unwrap() {
            Event::Data(data) => data,
            other => panic!("{other:?} is no data"),
        }
    }
}
