//! Reading a service stream, in pieces of any size.
//!
//! One decoder reads one direction and checks the order of its frames, so that nobody above has to:
//! `preface head data* trailers? end` from the server, `status informational* head data* trailers? end` from the
//! agent, and a reset wherever it pleases: also after an end, for whoever has said everything may still leave. Services
//! that are not HTTP have `preface data* end` and `status data* end`.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::WireError;
use super::exchange::{self, RequestHead, ResponseHead};
use super::frame::{HEADER, Kind, MAX_HEAD, MAX_SMALL, Reset, Status};
use super::login::ServiceKind;
use super::preface::Preface;

/// What a decoder has read. Large values are boxed: an event moves through several functions on its way.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// For which service the stream is.
    Preface(Box<Preface>),
    /// Whether the agent takes the exchange on.
    Status(Status),
    /// The head of the request.
    Request(Box<RequestHead>),
    /// A head with status 1xx.
    Informational(Box<ResponseHead>),
    /// The final head of the response.
    Response(Box<ResponseHead>),
    /// Some of the body: a slice of the input, not necessarily a whole frame.
    Data(Bytes),
    /// The trailers.
    Trailers(Box<HeaderMap>),
    /// This direction is complete.
    End,
    /// The peer broke the exchange off.
    Reset(Reset),
}

/// What may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Preface,
    /// Of a stream that carries HTTP, or of one that carries raw bytes.
    Status {
        raw: bool,
    },
    RequestHead,
    ResponseHead,
    Body,
    Raw,
    AfterTrailers,
    Ended,
    Reset,
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
        Self::new(Phase::Status { raw: false }, max_head)
    }

    /// For what the agent sends for a service that is not HTTP: status byte, raw data.
    pub fn raw_response() -> Self {
        Self::new(Phase::Status { raw: true }, 0)
    }

    fn new(phase: Phase, max_head: usize) -> Self {
        Self { phase, progress: Progress::Header([0; HEADER], 0), max_head: max_head.min(MAX_HEAD) }
    }

    /// Whether this direction is complete, or was reset.
    pub fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Ended | Phase::Reset)
    }

    /// Takes the next event off the front of `input`; `None` means that `input` is used up and more is needed.
    ///
    /// # Errors
    /// The bytes do not follow the protocol; the decoder must not be used again.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<Event>, WireError> {
        while !input.is_empty() {
            if let Phase::Status { raw } = self.phase {
                self.phase = if raw { Phase::Raw } else { Phase::ResponseHead };
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
            Kind::Data => matches!(self.phase, Phase::Body | Phase::Raw),
            Kind::Trailers => self.phase == Phase::Body,
            Kind::End => matches!(self.phase, Phase::Body | Phase::Raw | Phase::AfterTrailers),
            Kind::Reset => self.phase != Phase::Reset,
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
            self.phase = Phase::Ended;
            return Ok(Some(Event::End));
        }
        Ok(None)
    }

    /// A payload is complete.
    fn finish(&mut self, kind: Kind, payload: Bytes) -> Result<Event, WireError> {
        let (event, phase) = match kind {
            Kind::Preface => {
                let preface = Box::new(Preface::parse(payload)?);
                let phase = if preface.kind == ServiceKind::Http { Phase::RequestHead } else { Phase::Raw };
                (Event::Preface(preface), phase)
            }
            Kind::Informational => (Event::Informational(Box::new(ResponseHead::parse(kind, payload)?)), self.phase),
            Kind::Head if self.phase == Phase::RequestHead => {
                (Event::Request(Box::new(RequestHead::parse(payload)?)), Phase::Body)
            }
            Kind::Head => (Event::Response(Box::new(ResponseHead::parse(kind, payload)?)), Phase::Body),
            Kind::Trailers => (Event::Trailers(Box::new(exchange::parse_trailers(payload)?)), Phase::AfterTrailers),
            Kind::Reset => {
                (Event::Reset(payload.first().map_or(Reset::Cancelled, |b| Reset::from_byte(*b))), Phase::Reset)
            }
            Kind::Data | Kind::End => return Err(WireError::Order(kind.word())),
        };
        self.phase = phase;
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode, Version};

    use super::super::exchange::Scheme;
    use super::*;
    use crate::values::{Name, RequestId};

    const ACCEPTED: &[u8] = &[1];
    const END: &[u8] = &[6, 0, 0, 0];
    const DATA: &[u8] = &[4, 0, 0, 1, b'x'];
    const RESET: &[u8] = &[7, 0, 0, 1, 5];

    fn preface_of(kind: ServiceKind) -> Vec<u8> {
        let address = "192.0.2.1:80".parse().unwrap();
        let name = Name::new("alice").unwrap();
        let mut out = BytesMut::new();
        Preface { service: name, visitor: address, server: address, kind, request_id: RequestId(1) }
            .put(&mut out)
            .unwrap();
        out.to_vec()
    }

    fn preface() -> Vec<u8> {
        preface_of(ServiceKind::Http)
    }

    fn request() -> Vec<u8> {
        let mut out = BytesMut::new();
        RequestHead {
            method: Method::GET,
            scheme: Scheme::Http,
            authority: None,
            target: Bytes::from_static(b"/"),
            protocol: None,
            version: Version::HTTP_11,
            headers: HeaderMap::new(),
            has_body: true,
        }
        .put(&mut out)
        .unwrap();
        out.to_vec()
    }

    fn response(status: StatusCode) -> Vec<u8> {
        let mut out = BytesMut::new();
        ResponseHead { status, version: Version::HTTP_11, headers: HeaderMap::new(), local: None, reason: None }
            .put(&mut out)
            .unwrap();
        out.to_vec()
    }

    fn trailers() -> Vec<u8> {
        let mut out = BytesMut::new();
        exchange::put_trailers(&mut out, &HeaderMap::new()).unwrap();
        out.to_vec()
    }

    /// How many events come, and with what it ends.
    fn read(mut decoder: Decoder, pieces: &[&[u8]]) -> (usize, Result<bool, WireError>) {
        let mut input = Bytes::from(pieces.concat());
        let mut events = 0;
        loop {
            match decoder.next(&mut input) {
                Ok(Some(_)) => events += 1,
                Ok(None) => return (events, Ok(decoder.is_done())),
                Err(error) => return (events, Err(error)),
            }
        }
    }

    #[test]
    fn raw_streams_carry_data_and_nothing_else() {
        let (request, answer, trailers) = (&*request(), &*response(StatusCode::OK), &*trailers());
        for kind in [ServiceKind::Tcp, ServiceKind::Tls] {
            let preface = &*preface_of(kind);
            for (decoder, first) in
                [(Decoder::request as fn(usize) -> Decoder, preface), (|_| Decoder::raw_response(), ACCEPTED)]
            {
                let of_raw = |pieces: &[&[u8]]| read(decoder(1000), &[&[first], pieces].concat());
                assert_eq!(of_raw(&[DATA, DATA, END]), (4, Ok(true)));
                assert_eq!(of_raw(&[END]), (2, Ok(true)));
                assert_eq!(of_raw(&[DATA, RESET]), (3, Ok(true)));
                for (pieces, word) in [
                    (&[request] as &[&[u8]], "head"),
                    (&[answer], "head"),
                    (&[DATA, trailers], "trailers"),
                    (&[preface], "preface"),
                    (&[END, DATA], "data"),
                ] {
                    assert_eq!(of_raw(pieces).1, Err(WireError::Order(word)), "{kind:?} {word}");
                }
            }
        }
    }

    #[test]
    fn frames_have_an_order_and_every_other_is_refused() {
        let (preface, request, trailers) = (&*preface(), &*request(), &*trailers());
        let of_request = |pieces: &[&[u8]]| read(Decoder::request(1000), pieces);
        assert_eq!(of_request(&[preface, request, DATA, DATA, trailers, END]), (6, Ok(true)));
        assert_eq!(of_request(&[preface, request, END]), (3, Ok(true)));
        assert_eq!(of_request(&[preface, request, DATA]), (3, Ok(false)));
        for (pieces, word) in [
            (&[request] as &[&[u8]], "head"),
            (&[END], "end"),
            (&[preface, preface], "preface"),
            (&[preface, DATA], "data"),
            (&[preface, trailers], "trailers"),
            (&[preface, END], "end"),
            (&[preface, request, request], "head"),
            (&[preface, request, preface], "preface"),
            (&[preface, request, trailers, DATA], "data"),
            (&[preface, request, trailers, trailers], "trailers"),
            (&[preface, request, END, DATA], "data"),
            (&[preface, request, END, END], "end"),
            (&[preface, request, END, trailers], "trailers"),
        ] {
            assert_eq!(of_request(pieces), (pieces.len() - 1, Err(WireError::Order(word))), "{pieces:?}");
        }
    }

    #[test]
    fn an_answer_has_interim_heads_and_one_final_one() {
        let (interim, last) = (&*response(StatusCode::EARLY_HINTS), &*response(StatusCode::OK));
        let switched = &*response(StatusCode::SWITCHING_PROTOCOLS);
        let of_response = |pieces: &[&[u8]]| read(Decoder::response(1000), pieces);
        assert_eq!(of_response(&[ACCEPTED, interim, interim, last, DATA, END]), (6, Ok(true)));
        assert_eq!(of_response(&[ACCEPTED, switched, DATA, END]), (4, Ok(true)));
        for (pieces, word) in [
            (&[ACCEPTED, DATA] as &[&[u8]], "data"),
            (&[ACCEPTED, END], "end"),
            (&[ACCEPTED, interim, END], "end"),
            (&[ACCEPTED, last, last], "head"),
            (&[ACCEPTED, last, interim], "informational"),
            (&[ACCEPTED, &preface()], "preface"),
            (&[ACCEPTED, last, END, interim], "informational"),
        ] {
            assert_eq!(of_response(pieces), (pieces.len() - 1, Err(WireError::Order(word))), "{pieces:?}");
        }
    }

    #[test]
    fn a_reset_stands_anywhere_once() {
        let (preface, request, trailers) = (&*preface(), &*request(), &*trailers());
        for before in [
            &[] as &[&[u8]],
            &[preface],
            &[preface, request],
            &[preface, request, DATA],
            &[preface, request, trailers],
            &[preface, request, END],
        ] {
            let mut input = Bytes::from([before.concat().as_slice(), RESET, RESET].concat());
            let mut decoder = Decoder::request(1000);
            for _ in before {
                assert!(!matches!(decoder.next(&mut input), Ok(None | Some(Event::Reset(_))) | Err(_)));
            }
            assert_eq!(decoder.next(&mut input), Ok(Some(Event::Reset(Reset::Idle))));
            assert!(decoder.is_done());
            assert_eq!(decoder.next(&mut input), Err(WireError::Order("reset")));
        }
    }

    #[test]
    fn too_much_is_refused_before_it_comes() {
        let (preface, request) = (&*preface(), &*request());
        let head = |kind: Kind, length: usize| [kind as u8, 0, (length >> 8) as u8, length as u8];
        for (before, kind, limit) in [
            (&[] as &[&[u8]], Kind::Preface, MAX_SMALL),
            (&[], Kind::Reset, MAX_SMALL),
            (&[preface], Kind::Head, 1000),
            (&[preface, request], Kind::Trailers, 1000),
            (&[preface, request], Kind::End, 0),
        ] {
            let with = |length| read(Decoder::request(1000), &[&*before.concat(), &head(kind, length)]).1;
            assert_eq!(with(limit + 1), Err(WireError::TooLarge(kind.word())));
            assert_eq!(with(limit), Ok(kind == Kind::End), "{kind:?}");
        }
        let with = |kind| read(Decoder::response(1000), &[ACCEPTED, &head(kind, 1001)]).1;
        assert_eq!(with(Kind::Informational), Err(WireError::TooLarge("informational")));
        assert_eq!(with(Kind::Head), Err(WireError::TooLarge("head")));
        // Data needs no limit: nobody holds it.
        assert_eq!(read(Decoder::request(1000), &[preface, request, &[4, 255, 255, 255], b"x"]), (3, Ok(false)));
    }

    #[test]
    fn no_configuration_lifts_the_largest_head() {
        let mut input = Bytes::from([&*preface(), &[Kind::Head as u8, 8, 0, 1]].concat());
        let mut decoder = Decoder::request(usize::MAX);
        assert!(matches!(decoder.next(&mut input), Ok(Some(Event::Preface(_)))));
        assert_eq!(decoder.next(&mut input), Err(WireError::TooLarge("head")));
    }

    #[test]
    fn what_nobody_knows_is_refused() {
        for kind in (0..=255_u8).filter(|kind| !(1..=7).contains(kind)) {
            let read = read(Decoder::request(1000), &[&[kind, 0, 0, 0]]);
            assert_eq!(read, (0, Err(WireError::Invalid("frame kind"))));
        }
        for status in (0..=255_u8).filter(|status| !(1..=5).contains(status)) {
            assert_eq!(read(Decoder::response(1000), &[&[status]]), (0, Err(WireError::Invalid("status byte"))));
        }
        for (payload, what) in [
            (&[12, 0, 200, 0, 0], "HTTP version"),
            (&[11, 0, 99, 0, 0], "status"),
            (&[11, 3, 232, 0, 0], "status"),
            (&[11, 0, 103, 0, 0], "status"),
        ] {
            let refused = read(Decoder::response(1000), &[ACCEPTED, &[2, 0, 0, 5], payload]);
            assert_eq!(refused, (1, Err(WireError::Invalid(what))));
        }
        let empty = read(Decoder::response(1000), &[ACCEPTED, &[2, 0, 0, 0]]);
        assert_eq!(empty, (1, Err(WireError::Short)));
    }

    #[test]
    fn a_final_status_cannot_be_an_interim_head() {
        for status in [200, 101] {
            let refused = read(Decoder::response(1000), &[ACCEPTED, &[3, 0, 0, 5], &[11, 0, status, 0, 0]]);
            assert_eq!(refused, (1, Err(WireError::Invalid("status"))));
        }
    }

    #[test]
    fn an_unfinished_head_holds_no_more_than_what_came_and_never_twice_its_length() {
        let mut decoder = Decoder::request(400_000);
        let mut input = Bytes::from([&*preface(), &[Kind::Head as u8, 5, 0, 0]].concat());
        assert!(matches!(decoder.next(&mut input), Ok(Some(Event::Preface(_)))));
        assert_eq!(decoder.next(&mut input), Ok(None));
        let length = 5 << 16;
        for came in 1..length {
            assert_eq!(decoder.next(&mut Bytes::from_static(&[0])), Ok(None));
            let Progress::Payload(_, partial, _) = &decoder.progress else { panic!("{:?}", decoder.progress) };
            assert_eq!(partial.len(), came);
            assert!(partial.capacity() <= (2 * came).max(64) && partial.capacity() < 2 * length);
        }
    }
}
