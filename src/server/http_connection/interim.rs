//! `100 Continue` over HTTP/2, which hyper cannot send: the socket puts it between two frames.
//!
//! A stream may get one from its request until its final answer: [`Interim`] opens it, and [`FinalAnswer`] closes it before
//! hyper has the answer. So none follows the final answer, which would be an error (RFC 9113, section 8.1).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Context;

use bytes::{Buf, BytesMut};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// The header block of `100 Continue`: the name has a number in HPACK, and nothing is kept in the table (RFC 7541, section
/// 6.2.2).
const CONTINUE: [u8; 5] = [0x08, 0x03, b'1', b'0', b'0'];

/// The streams of a connection whose visitors wait to be asked for a body.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interims(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// As many as a connection has requests at most; and whether each is to be asked now.
    streams: Mutex<Vec<(u32, bool)>>,
    /// How many there are.
    count: AtomicUsize,
    /// The task that writes.
    waker: AtomicWaker,
}

/// A stream whose visitor waits to be asked for its body.
#[derive(Debug, Clone)]
pub(crate) struct Interim {
    stream: u32,
    interims: Interims,
}

/// Closes a stream for interim answers when it is dropped, before the final answer is given to hyper.
#[derive(Debug)]
pub(crate) struct FinalAnswer(Interim);

impl Interims {
    /// Opens `stream` for an interim answer.
    pub(crate) fn open(&self, stream: u32) -> Interim {
        self.change(|streams| streams.push((stream, false)));
        Interim { stream, interims: self.clone() }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<(u32, bool)>) -> T) -> T {
        let mut streams = self.0.streams.lock();
        let changed = change(&mut streams);
        self.0.count.store(streams.len(), Ordering::Release);
        changed
    }

    /// Takes the streams that are to be asked now.
    fn take(&self, cx: &mut Context<'_>) -> Vec<u32> {
        self.0.waker.register(cx.waker());
        self.change(|streams| streams.extract_if(.., |(_, is_asked)| *is_asked).map(|(stream, _)| stream).collect())
    }
}

impl Interim {
    /// Asks the visitor for its body, unless it has its final answer.
    pub(crate) fn ask(&self) {
        self.interims.change(|streams| {
            let open = streams.iter_mut().filter(|(stream, _)| *stream == self.stream);
            open.for_each(|(_, is_asked)| *is_asked = true);
        });
        self.interims.0.waker.wake();
    }

    /// Returns what is dropped before the final answer.
    pub(crate) fn until_final(&self) -> FinalAnswer {
        FinalAnswer(self.clone())
    }
}

impl Drop for FinalAnswer {
    fn drop(&mut self) {
        let Interim { stream, interims } = &self.0;
        interims.change(|streams| streams.retain(|(open, _)| open != stream));
    }
}

/// Writes interim answers between the frames of a connection.
#[derive(Debug, Default)]
pub(crate) struct InterimWriter {
    interims: Interims,
    frames: Frames,
    /// What is to be written before anything else.
    pub(crate) ready: BytesMut,
}

impl InterimWriter {
    /// The streams of the connection.
    pub(crate) fn interims(&self) -> Interims {
        self.interims.clone()
    }

    /// Puts the frames that are due into `ready`. To be called before each write and flush.
    pub(crate) fn prepare(&mut self, cx: &mut Context<'_>) {
        if self.interims.0.count.load(Ordering::Acquire) == 0 || !self.frames.is_between() {
            return;
        }
        for stream in self.interims.take(cx) {
            self.ready.extend_from_slice(&[0, 0, CONTINUE.len() as u8, HEADERS, END_HEADERS]);
            self.ready.extend_from_slice(&stream.to_be_bytes());
            self.ready.extend_from_slice(&CONTINUE);
        }
    }

    /// Follows what hyper has written.
    pub(crate) fn wrote(&mut self, bytes: &[u8]) {
        self.frames.wrote(bytes);
    }
}

/// Where the bytes of a connection are in its frames.
#[derive(Debug, Default)]
struct Frames {
    /// The beginning of a frame's header.
    header: BytesMut,
    /// Bytes of its payload that are still to come.
    rest: usize,
    /// A header block goes on in the next frame.
    is_in_block: bool,
}

impl Frames {
    fn is_between(&self) -> bool {
        self.header.is_empty() && self.rest == 0 && !self.is_in_block
    }

    fn wrote(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let passed = self.rest.min(bytes.len());
            self.rest -= passed;
            bytes = &bytes[passed..];
            if self.header.is_empty() && bytes.len() >= FRAME_HEADER {
                self.begin(&bytes[..FRAME_HEADER]);
                bytes = &bytes[FRAME_HEADER..];
            } else if !bytes.is_empty() {
                let part = (FRAME_HEADER - self.header.len()).min(bytes.len());
                self.header.extend_from_slice(&bytes[..part]);
                bytes = &bytes[part..];
                if self.header.len() == FRAME_HEADER {
                    let header = self.header.split();
                    self.begin(header.chunk());
                }
            }
        }
    }

    fn begin(&mut self, header: &[u8]) {
        self.rest = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        if matches!(header[3], HEADERS | PUSH_PROMISE | CONTINUATION) {
            self.is_in_block = header[4] & END_HEADERS == 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// What is due before the next byte.
    fn due(writer: &mut InterimWriter) -> Vec<u8> {
        writer.prepare(&mut Context::from_waker(Waker::noop()));
        writer.ready.split().to_vec()
    }

    #[test]
    fn an_interim_answer_comes_between_two_frames() {
        let frames = [
            frame(4, 0, &[0; 6]),
            frame(HEADERS, END_HEADERS, b"block"),
            frame(HEADERS, 0, b"begin"),
            frame(CONTINUATION, 0, b""),
            frame(CONTINUATION, END_HEADERS, b"end"),
            frame(0, 1, &[9; 40]),
        ];
        // Where a frame may be put, in bytes.
        let ends: Vec<usize> =
            (0..=6).filter(|at| ![3, 4].contains(at)).map(|at| frames[..at].concat().len()).collect();
        let all = frames.concat();
        for at in 0..=all.len() {
            let mut writer = InterimWriter::default();
            let interim = writer.interims().open(3);
            all[..at].chunks(7).for_each(|piece| writer.wrote(piece));
            assert_eq!(due(&mut writer), b"");
            interim.ask();
            let expected: &[u8] = if ends.contains(&at) { b"\0\0\x05\x01\x04\0\0\0\x03\x08\x03100" } else { b"" };
            assert_eq!(due(&mut writer), expected, "{at}");
            writer.wrote(&all[at..]);
            assert_eq!(due(&mut writer).is_empty(), !expected.is_empty(), "once");
        }
    }

    #[test]
    fn none_follows_the_final_answer() {
        let mut writer = InterimWriter::default();
        let [first, second] = [1, 3].map(|stream| writer.interims().open(stream));
        let answer = first.until_final();
        first.ask();
        drop(answer);
        first.ask();
        assert_eq!(due(&mut writer), b"");
        second.ask();
        assert_eq!(due(&mut writer)[8], 3);
        second.ask();
        assert_eq!(due(&mut writer), b"");
        assert_eq!(writer.interims.0.count.load(Ordering::Acquire), 0);
    }
}
