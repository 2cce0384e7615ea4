//! An agent that speaks yamux by hand, frame by frame.

use adit::protocol::control::Control;
use adit::protocol::exchange::ResponseHead;
use adit::protocol::frame::Status;
use adit::protocol::json;
use bytes::{BufMut as _, BytesMut};
use http::{HeaderMap, StatusCode, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::harness::puppet::{hello, log_in};
use crate::harness::{TestServer, name, soon, until};

pub const DATA: u8 = 0;
pub const WINDOW_UPDATE: u8 = 1;
pub const SYN: u16 = 1;
pub const ACK: u16 = 2;
pub const RST: u16 = 8;

/// The number of the control stream.
pub const CONTROL: u32 = 1;

/// A frame's header; `length` is also a window's growth.
pub fn frame(kind: u8, flags: u16, stream: u32, length: u32) -> Vec<u8> {
    let mut frame = vec![0, kind];
    frame.extend(flags.to_be_bytes());
    frame.extend(stream.to_be_bytes());
    frame.extend(length.to_be_bytes());
    frame
}

/// A whole frame of data.
pub fn data(flags: u16, stream: u32, body: &[u8]) -> Vec<u8> {
    [frame(DATA, flags, stream, body.len() as u32), body.to_vec()].concat()
}

/// A frame that was read.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u16,
    pub stream: u32,
}

/// A lane of bob's, up and with its control stream.
pub struct RawAgent {
    pub read: ReadHalf<TlsStream<TcpStream>>,
    pub write: WriteHalf<TlsStream<TcpStream>>,
}

pub fn heartbeat() -> Vec<u8> {
    json::encode(&Control::Heartbeat).unwrap()
}

impl RawAgent {
    pub async fn connect(server: &TestServer) -> Self {
        let (_, pipe) = log_in(server, &hello("bob", &["bob"])).await.expect("the login was refused");
        until("bob's tunnel", &server.registry, || server.registry.by_name(&name("bob")).is_some()).await;
        let (read, write) = tokio::io::split(pipe);
        let mut agent = Self { read, write };
        agent.say(&data(SYN, CONTROL, &heartbeat())).await;
        agent
    }

    /// Sends bytes, as far as the server takes them.
    pub async fn say(&mut self, bytes: &[u8]) {
        let said = async {
            if self.write.write_all(bytes).await.is_ok() {
                let _ = self.write.flush().await;
            }
        };
        soon("a server that listens", said).await;
    }

    /// The next frame; none at the end of the session.
    pub async fn frame(&mut self) -> Option<Frame> {
        let mut header = [0; 12];
        soon("a frame", self.read.read_exact(&mut header)).await.ok()?;
        let [_, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = header;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let mut body = vec![0; if kind == DATA { length } else { 0 }];
        self.read.read_exact(&mut body).await.ok()?;
        Some(Frame { kind, flags: u16::from_be_bytes([f0, f1]), stream: u32::from_be_bytes([s0, s1, s2, s3]) })
    }

    /// The number of the next stream that the server opens.
    pub async fn request(&mut self) -> u32 {
        loop {
            let frame = self.frame().await.expect("the session has ended");
            if frame.kind == DATA && frame.flags & SYN != 0 {
                return frame.stream;
            }
        }
    }

    /// Waits for the end of the session, and of the tunnel.
    pub async fn ended(&mut self, server: &TestServer, why: &str) {
        while self.frame().await.is_some() {}
        until(why, &server.registry, || server.registry.by_name(&name("bob")).is_none()).await;
    }
}

/// Status and head of an answer with a body.
pub fn answer() -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u8(Status::Accepted as u8);
    let head = ResponseHead {
        status: StatusCode::OK,
        version: Version::HTTP_11,
        headers: HeaderMap::new(),
        local: None,
        reason: None,
    };
    head.put(&mut out).unwrap();
    out
}

/// The header of a data frame of an exchange.
pub fn data_header(length: usize) -> [u8; 4] {
    adit::protocol::frame::data_header(length)
}
