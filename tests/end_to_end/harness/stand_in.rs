//! The server's side of the wire in the test's own hands: who logs in, what is answered, and what lanes carry.

use std::net::SocketAddr;
use std::time::Duration;

use adit::link::carriers::mux;
use adit::link::carriers::mux::{MuxConfig, Side, WINDOW_GROWTH};
use adit::link::framed::{FrameReader, FrameWriter};
use adit::link::handshake::{ControlReader, ControlWriter, receive, send};
use adit::link::session::{Ended, Session, Stream};
use adit::protocol::control::Control;
use adit::protocol::decode::{Decoder, Event};
use adit::protocol::exchange::{RequestHead, Scheme};
use adit::protocol::frame::{MAX_HEAD, Status};
use adit::protocol::login::{
    Answer, Hello, LaneGrant, LaneTerms, PublicService, Refusal, Refused, ServiceKind, ServiceOffer, Welcome,
};
use adit::protocol::preface::Preface;
use adit::protocol::requirements::{CAPABILITIES, SERVICES};
use adit::transport::tls;
use adit::values::{Fingerprint, LaneId, RequestId, TunnelId};
use bytes::Bytes;
use http::{HeaderMap, Method, Version};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::puppet::secret;
use super::{name, soon, spawn};

/// Often enough that no agent thinks a lane dead.
const BEAT: Duration = Duration::from_millis(50);

/// A server that does what the test says.
pub struct StandIn {
    pub address: SocketAddr,
    pub fingerprint: Fingerprint,
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl StandIn {
    pub async fn start() -> Self {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let fingerprint = adit::certs::fingerprint_of(cert.der()).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let tls = TlsAcceptor::from(tls::server(vec![cert.der().clone()], key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { address: listener.local_addr().unwrap(), fingerprint, listener, tls }
    }

    /// The next login.
    pub async fn login(&self) -> Login {
        let accepted = async {
            let (socket, _) = self.listener.accept().await.unwrap();
            let mut pipe = self.tls.accept(socket).await.unwrap();
            let hello = receive(&mut pipe).await.unwrap();
            Login { hello, pipe }
        };
        soon("a login", accepted).await
    }
}

/// Somebody who waits for an answer.
pub struct Login {
    pub hello: Hello,
    pipe: TlsStream<TcpStream>,
}

impl Login {
    /// The names that are offered.
    pub fn names(&self) -> Vec<&str> {
        names(&self.hello.services)
    }

    pub async fn refuse(mut self, code: Refusal, message: &str) {
        send(&mut self.pipe, &Answer::Refused(Refused::new(code, message))).await.unwrap();
    }

    /// Lets it in, as a server of this version.
    pub async fn welcome(self) -> Lane {
        self.welcome_with(&CAPABILITIES, 10.0).await
    }

    /// Lets it in, as a server that takes changed services and knows no conditions for visitors.
    pub async fn welcome_as_older(self) -> Lane {
        self.welcome_with(&[SERVICES], 10.0).await
    }

    /// Lets it in. The lane is up when the agent has opened its control stream and heard of the server.
    pub async fn welcome_with(mut self, capabilities: &[&str], heartbeat_s: f64) -> Lane {
        let welcome = Welcome {
            tunnel_id: TunnelId::random().unwrap(),
            lane: LaneGrant { lane_id: LaneId::next(), lane_secret: secret("lane"), lane_address: None },
            node_id: "stand-in".to_owned(),
            ticket: secret("ticket"),
            services: public(&self.names()),
            standby: Vec::new(),
            terms: LaneTerms { heartbeat_s, max_streams: 100, connect_timeout_s: 5.0 },
            capabilities: capabilities.iter().map(|text| (*text).to_owned()).collect(),
            server_version: "0".to_owned(),
        };
        send(&mut self.pipe, &Answer::Welcome(welcome)).await.unwrap();
        let mux = MuxConfig { max_streams: 4000, yield_first: false, window_growth: WINDOW_GROWTH };
        let (session, driver) = mux::session(Box::new(self.pipe), Side::Server, mux);
        let (sender, mut streams) = mpsc::unbounded_channel();
        let driver = spawn(driver.run(Duration::from_secs(1), move |stream| drop(sender.send(stream))));
        let control = soon("a control stream", streams.recv()).await.unwrap();
        let (say, mut to_say) = mpsc::unbounded_channel();
        let mut writer = ControlWriter::new(control.clone());
        spawn(async move {
            let mut beat = tokio::time::interval(BEAT);
            loop {
                let message = tokio::select! {
                    message = to_say.recv() => match message {
                        Some(message) => message,
                        None => return,
                    },
                    _ = beat.tick() => Control::Heartbeat,
                };
                if writer.send(&message).await.is_err() {
                    return;
                }
            }
        });
        Lane { hello: self.hello, session, driver, say, reader: ControlReader::new(control) }
    }
}

/// What `offers` are named.
pub fn names(offers: &[ServiceOffer]) -> Vec<&str> {
    offers.iter().map(|offer| offer.name.as_str()).collect()
}

/// These services, each with an address.
pub fn public(names: &[&str]) -> Vec<PublicService> {
    let service = |text: &&str| PublicService {
        name: name(text),
        public_urls: vec![format!("http://{text}.example/")],
        taken_over: false,
        taken_from: None,
    };
    names.iter().map(service).collect()
}

/// A lane, seen from the server.
pub struct Lane {
    pub hello: Hello,
    session: Session,
    driver: JoinHandle<Ended>,
    say: mpsc::UnboundedSender<Control>,
    reader: ControlReader,
}

impl Lane {
    pub fn say(&self, message: Control) {
        self.say.send(message).unwrap();
    }

    /// Agrees to a change.
    pub fn agree(&self, change: u64, services: &[&str]) {
        self.say(Control::Offered { change, services: public(services), standby: Vec::new() });
    }

    /// The next message of the agent's that is no heartbeat.
    pub async fn heard(&mut self) -> Control {
        let next = async {
            loop {
                match self.reader.receive().await.unwrap() {
                    Control::Heartbeat => {}
                    message => return message,
                }
            }
        };
        soon("a word of the agent's", next).await
    }

    /// The next change: its number, and what is offered from then on.
    pub async fn change(&mut self) -> (u64, Vec<ServiceOffer>) {
        match self.heard().await {
            Control::Services { change, services, .. } => (change, services),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the agent has left this lane.
    pub async fn left(&mut self) {
        let gone = async { while self.reader.receive().await.is_ok() {} };
        soon("the end of a lane", gone).await;
    }

    /// Breaks it off.
    pub fn cut(self) {
        self.driver.abort();
    }

    /// Asks for `target` of a service, and gives back what the agent says of it.
    pub async fn ask(&self, service: &str, target: &str) -> Asked {
        self.ask_with(service, target, HeaderMap::new()).await
    }

    pub async fn ask_with(&self, service: &str, target: &str, headers: HeaderMap) -> Asked {
        let address = "192.0.2.1:80".parse().unwrap();
        let mut out = bytes::BytesMut::new();
        let (kind, request_id) = (ServiceKind::Http, RequestId(1));
        Preface { service: name(service), visitor: address, server: address, kind, request_id }.put(&mut out).unwrap();
        let head = RequestHead {
            method: Method::GET,
            scheme: Scheme::Http,
            authority: Some(Bytes::from(format!("{service}.localhost"))),
            target: Bytes::copy_from_slice(target.as_bytes()),
            protocol: None,
            version: Version::HTTP_11,
            headers,
            has_body: false,
        };
        head.put(&mut out).unwrap();
        let stream = self.open(&out).await;
        FrameWriter::new(stream.clone()).end().await.unwrap();
        Asked(FrameReader::new(stream, Decoder::response(MAX_HEAD)))
    }

    /// Opens a stream and says this on it, whatever it is.
    pub async fn open(&self, first: &[u8]) -> Stream {
        soon("a stream", self.session.open(first)).await.unwrap()
    }

    /// The same; `None` if the session is over.
    pub async fn try_open(&self, first: &[u8]) -> Option<Stream> {
        soon("a stream, or the end", self.session.open(first)).await.ok()
    }
}

/// A request that was sent.
pub struct Asked(pub FrameReader);

impl Asked {
    /// Whether the agent takes it on.
    pub async fn status(&mut self) -> Status {
        match soon("a status", self.0.event()).await.unwrap() {
            Event::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    /// The whole body of the answer.
    pub async fn body(mut self) -> String {
        assert_eq!(self.status().await, Status::Accepted);
        let mut body = Vec::new();
        loop {
            match soon("an answer", self.0.event()).await.unwrap() {
                Event::Response(head) => assert_eq!(head.status, 200),
                Event::Data(data) => body.extend_from_slice(&data),
                Event::End => return String::from_utf8(body).unwrap(),
                other => panic!("{other:?}"),
            }
        }
    }
}
