//! Raw HTTP/2 frames (RFC 9113), for visitors and applications that do what no library would.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::soon;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The largest frame that needs no agreement.
const MAX_FRAME: usize = 16_384;

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A field as HPACK has it without any compression (RFC 7541, section 6.2.2).
pub fn field(name: &str, value: &str) -> Vec<u8> {
    assert!(name.len() < 127 && value.len() < 127, "longer ones are written otherwise");
    [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

/// The fields of a request to alice.
pub fn request(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let own = [(":method", method), (":scheme", "http"), (":authority", "alice.localhost"), (":path", path)];
    own.iter().chain(more).flat_map(|(name, value)| field(name, value)).collect()
}

/// The fields of a response.
pub fn response(status: &str, more: &[(&str, &str)]) -> Vec<u8> {
    [(":status", status)].iter().chain(more).flat_map(|(name, value)| field(name, value)).collect()
}

/// One end of a connection.
pub struct Frames {
    pub socket: TcpStream,
}

impl Frames {
    /// A visitor, who knows what the server allows.
    pub async fn visitor(public: SocketAddr) -> Self {
        let mut socket = soon("a public port", TcpStream::connect(public)).await.unwrap();
        socket.write_all(PREFACE).await.unwrap();
        Self::begun(socket).await
    }

    /// An application that was just connected to.
    pub async fn application(mut socket: TcpStream) -> Self {
        let mut preface = [0; PREFACE.len()];
        soon("a preface", socket.read_exact(&mut preface)).await.unwrap();
        assert_eq!(preface, PREFACE);
        Self::begun(socket).await
    }

    async fn begun(socket: TcpStream) -> Self {
        let mut frames = Self { socket };
        // Windows that nothing here fills, and extended CONNECT.
        let settings = [&[0, 4][..], &0x0fff_ffff_u32.to_be_bytes(), &[0, 8], &1_u32.to_be_bytes()].concat();
        frames.send(SETTINGS, 0, 0, &settings).await;
        frames.send(WINDOW_UPDATE, 0, 0, &0x0fff_ffff_u32.to_be_bytes()).await;
        // Both are needed before more may be sent than the smallest windows hold.
        let (mut has_settings, mut has_window) = (false, false);
        while !has_settings || !has_window {
            let frame = frames.any().await.expect("the connection ended before its settings");
            if frame.kind == SETTINGS && frame.flags & ACK == 0 {
                frames.send(SETTINGS, ACK, 0, &[]).await;
                has_settings = true;
            }
            has_window |= frame.kind == WINDOW_UPDATE && frame.stream == 0;
        }
        frames
    }

    /// Sends a frame, as far as the other side takes it.
    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let frame = bytes_of(kind, flags, stream, payload);
        let _ = soon("room for a frame", self.socket.write_all(&frame)).await;
    }

    /// Sends data, in frames of any size.
    pub async fn send_data(&mut self, stream: u32, data: &[u8]) {
        for piece in data.chunks(MAX_FRAME) {
            self.send(DATA, 0, stream, piece).await;
        }
    }

    async fn any(&mut self) -> Option<Frame> {
        let mut header = [0; 9];
        soon("a frame", self.socket.read_exact(&mut header)).await.ok()?;
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, l0, l1, l2]) as usize];
        soon("a payload", self.socket.read_exact(&mut payload)).await.ok()?;
        Some(Frame { kind, flags, stream: u32::from_be_bytes([s0, s1, s2, s3]), payload })
    }

    /// The next frame that belongs to a stream, or says goodbye; none at the end of the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = self.any().await?;
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]).await,
                PING if frame.flags & ACK == 0 => self.send(PING, ACK, 0, &frame.payload).await,
                SETTINGS | PING | WINDOW_UPDATE => {}
                _ => return Some(frame),
            }
        }
    }

    /// The next head of a message, and its stream.
    pub async fn head(&mut self) -> Frame {
        loop {
            let frame = self.next().await.expect("the connection ended before a head");
            if frame.kind == HEADERS {
                return frame;
            }
        }
    }

    /// Reads a stream to its end: its data, and the frame that ended it, or none if the connection ended.
    pub async fn rest(&mut self, stream: u32) -> (Vec<u8>, Option<Frame>) {
        let mut data = Vec::new();
        while let Some(frame) = self.next().await {
            if frame.stream != stream {
                continue;
            }
            if frame.kind == DATA {
                data.extend_from_slice(&frame.payload);
            }
            if frame.kind == RST_STREAM || frame.flags & END_STREAM != 0 {
                return (data, Some(frame));
            }
        }
        (data, None)
    }
}

/// A frame as it is sent.
pub fn bytes_of(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, l0, l1, l2] = (payload.len() as u32).to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    [&[l0, l1, l2, kind, flags, s0, s1, s2, s3], payload].concat()
}

/// How a message ends that is not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// `RST_STREAM` with this code.
    Stream(u32),
    /// `GOAWAY` with this code, and the end of the connection in order.
    GoAway(u32),
    /// The end of the connection, in order.
    Fin,
    /// The end of the connection by a reset.
    Rst,
}

impl Break {
    /// Every way that there is over HTTP/2: each code of RFC 9113, section 7, and one that is unknown.
    pub fn all() -> impl Iterator<Item = Self> {
        let codes = || (0..=13).chain([0xdead_beef]);
        let streams = codes().map(Self::Stream);
        streams.chain([Self::GoAway(0), Self::GoAway(2), Self::Fin, Self::Rst])
    }

    /// Breaks a message on `stream` off. Gives the connection back if it lives on.
    pub async fn carry_out(self, mut frames: Frames, stream: u32) -> Option<Frames> {
        match self {
            Self::Stream(code) => {
                frames.send(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
                return Some(frames);
            }
            Self::GoAway(code) => {
                frames.send(GOAWAY, 0, 0, &[[0; 4], code.to_be_bytes()].concat()).await;
            }
            Self::Fin => {}
            Self::Rst => reset(&frames.socket).await,
        }
        None
    }
}

/// Has a connection end with a reset, after what was sent on it.
pub async fn reset(socket: &TcpStream) {
    adit::transport::delivery::all_sent(socket, super::PATIENCE).await;
    socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO)).unwrap();
}
