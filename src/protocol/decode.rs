//! Reading a service stream, in pieces of any size.
//!
//! One decoder reads one direction and checks the order of its frames, so that nobody above has to:
//! `preface head data* trailers? end` from the server, `status informational* head data* trailers? end` from the
//! agent, and a reset wherever it pleases.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::WireError;
use super::exchange::{self, RequestHead, ResponseHead};
use super::frame::{HEADER, Kind, MAX_HEAD, MAX_SMALL, Reset, Status};
use super::preface::Preface;

/// What a decoder has read.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// For which service the stream is.
    Preface(Preface),
    /// Whether the agent takes the exchange on.
    Status(Status),
    /// The head of the request.
    Request(RequestHead),
    /// A head with status 1xx.
    Informational(ResponseHead),
    /// The final head of the response.
    Response(ResponseHead),
    /// Some of the body: a slice of the input, not necessarily a whole frame.
    Data(Bytes),
    /// The trailers.
    Trailers(HeaderMap),
    /// This direction is complete.
    End,
    /// The peer broke the exchange off.
    Reset(Reset),
}

/// What may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Preface,
    Status,
    RequestHead,
    ResponseHead,
    Body,
    AfterTrailers,
    Done,
}

/// How far into a frame the input has been read.
#[derive(Debug)]
enum Progress {
    /// Waiting for the rest of the header: what there is of it, and how much.
    Header([u8; HEADER], usize),
    /// So many bytes of data are still to come.
    Data(usize),
    /// A payload that must be whole before it is read: what there is of it, and how long it will be.
    Payload(Kind, BytesMut, usize),
}

/// Reads one direction of a service stream. It holds at most one head.
#[derive(Debug)]
pub struct Decoder {
    phase: Phase,
    progress: Progress,
    max_head: usize,
}

impl Decoder {
    /// For what the server sends: preface, request, body. Heads above `max_head` bytes are refused.
    pub fn request(max_head: usize) -> Self {
        Self::new(Phase::Preface, max_head)
    }

    /// For what the agent sends: status byte, response, body. Heads above `max_head` bytes are refused.
    pub fn response(max_head: usize) -> Self {
        Self::new(Phase::Status, max_head)
    }

    fn new(phase: Phase, max_head: usize) -> Self {
        Self { phase, progress: Progress::Header([0; HEADER], 0), max_head: max_head.min(MAX_HEAD) }
    }

    /// Whether this direction is complete, or was reset.
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Takes the next event off the front of `input`; `None` means that `input` is used up and more is needed.
    ///
    /// # Errors
    /// The bytes do not follow the protocol; the decoder must not be used again.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<Event>, WireError> {
        while !input.is_empty() {
            if self.phase == Phase::Status {
                self.phase = Phase::ResponseHead;
                return Status::from_byte(input.get_u8()).map(|status| Some(Event::Status(status)));
            }
            match &mut self.progress {
                Progress::Header(header, filled) => {
                    let step = input.len().min(HEADER - *filled);
                    header[*filled..*filled + step].copy_from_slice(&input[..step]);
                    input.advance(step);
                    *filled += step;
                    if *filled == HEADER {
                        let header = *header;
                        if let Some(event) = self.begin(header)? {
                            return Ok(Some(event));
                        }
                    }
                }
                Progress::Data(left) => {
                    let step = input.len().min(*left);
                    *left -= step;
                    if *left == 0 {
                        self.progress = Progress::Header([0; HEADER], 0);
                    }
                    return Ok(Some(Event::Data(input.split_to(step))));
                }
                Progress::Payload(kind, partial, length) => {
                    let whole = if partial.is_empty() && input.len() >= *length {
                        input.split_to(*length)
                    } else {
                        let step = input.len().min(*length - partial.len());
                        partial.extend_from_slice(&input[..step]);
                        input.advance(step);
                        if partial.len() < *length {
                            continue;
                        }
                        partial.split().freeze()
                    };
                    let kind = *kind;
                    self.progress = Progress::Header([0; HEADER], 0);
                    return self.finish(kind, whole).map(Some);
                }
            }
        }
        Ok(None)
    }

    /// A header is complete: what it announces must be allowed here and no larger than it may.
    fn begin(&mut self, header: [u8; HEADER]) -> Result<Option<Event>, WireError> {
        let kind = Kind::from_byte(header[0])?;
        let length = usize::from(header[1]) << 16 | usize::from(header[2]) << 8 | usize::from(header[3]);
        let allowed = match kind {
            Kind::Preface => self.phase == Phase::Preface,
            Kind::Head => matches!(self.phase, Phase::RequestHead | Phase::ResponseHead),
            Kind::Informational => self.phase == Phase::ResponseHead,
            Kind::Data | Kind::Trailers => self.phase == Phase::Body,
            Kind::End => matches!(self.phase, Phase::Body | Phase::AfterTrailers),
            Kind::Reset => self.phase != Phase::Done,
        };
        if !allowed {
            return Err(WireError::Order(kind.word()));
        }
        let limit = match kind {
            Kind::Preface | Kind::Reset => MAX_SMALL,
            Kind::Head | Kind::Informational | Kind::Trailers => self.max_head,
            Kind::Data => usize::MAX,
            Kind::End => 0,
        };
        if length > limit {
            return Err(WireError::TooLarge(kind.word()));
        }
        self.progress = match kind {
            Kind::Data if length > 0 => Progress::Data(length),
            Kind::Data | Kind::End => Progress::Header([0; HEADER], 0),
            _ if length == 0 => return Err(WireError::Short),
            _ => Progress::Payload(kind, BytesMut::new(), length),
        };
        if kind == Kind::End {
            self.phase = Phase::Done;
            return Ok(Some(Event::End));
        }
        Ok(None)
    }

    /// A payload is complete.
    fn finish(&mut self, kind: Kind, payload: Bytes) -> Result<Event, WireError> {
        let (event, phase) = match kind {
            Kind::Preface => (Event::Preface(Preface::parse(payload)?), Phase::RequestHead),
            Kind::Informational => (Event::Informational(ResponseHead::parse(kind, payload)?), self.phase),
            Kind::Head if self.phase == Phase::RequestHead => {
                (Event::Request(RequestHead::parse(payload)?), Phase::Body)
            }
            Kind::Head => (Event::Response(ResponseHead::parse(kind, payload)?), Phase::Body),
            Kind::Trailers => (Event::Trailers(exchange::parse_trailers(payload)?), Phase::AfterTrailers),
            Kind::Reset => {
                (Event::Reset(payload.first().map_or(Reset::Cancelled, |b| Reset::from_byte(*b))), Phase::Done)
            }
            Kind::Data | Kind::End => return Err(WireError::Order(kind.word())),
        };
        self.phase = phase;
        Ok(event)
    }
}
