//! Property tests against the HTTP libraries: whatever bytes come, no request with a `#` in its target is served.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::hpack::tests::{put_integer, put_string};
use super::{Http1Targets, Http2Targets};

/// Who reads along.
enum Reader {
    Http1(Http1Targets),
    Http2(Box<Http2Targets>),
}

/// Gives its bytes in pieces of `piece` bytes, then nothing more, and takes whatever is written.
struct Wire {
    bytes: Vec<u8>,
    at: usize,
    piece: usize,
    reader: Reader,
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let ready = match &mut self.reader {
                Reader::Http1(targets) => &mut targets.ready,
                Reader::Http2(targets) => {
                    if targets.ready.is_empty() && !targets.held.is_empty() {
                        targets.read_held();
                    }
                    &mut targets.ready
                }
            };
            if !ready.is_empty() {
                let length = ready.len().min(buffer.remaining());
                buffer.put_slice(&ready.split_to(length));
                return Poll::Ready(Ok(()));
            }
            let end = self.bytes.len().min(self.at + self.piece.min(buffer.remaining()));
            let mut bytes = self.bytes[self.at..end].to_vec();
            if bytes.is_empty() {
                return Poll::Pending;
            }
            self.at = end;
            match &mut self.reader {
                Reader::Http1(targets) => {
                    let upto = targets.read(&bytes);
                    bytes.truncate(upto);
                }
                Reader::Http2(targets) if targets.held.is_empty() => {
                    let upto = targets.read(&bytes);
                    bytes.truncate(upto);
                }
                Reader::Http2(targets) => {
                    targets.held.extend_from_slice(&bytes);
                    continue;
                }
            }
            if !bytes.is_empty() {
                buffer.put_slice(&bytes);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The paths that the library has read, and whether each is refused.
type Seen = Arc<Mutex<Vec<(String, bool)>>>;

async fn note(seen: Seen, request: Request<Incoming>, is_refused: bool) -> Result<Response<Empty<Bytes>>, Infallible> {
    seen.lock().push((request.uri().path().to_owned(), is_refused));
    let _ = request.into_body().collect().await;
    let mut response = Response::new(Empty::new());
    if is_refused {
        response.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// Runs `connection` until it waits for what never comes. The clock is paused: nothing is waited for.
fn run(connection: impl Future) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(1), connection).await }).ok();
}

fn seen_over_http1(bytes: Vec<u8>, piece: usize) -> Vec<(String, bool)> {
    let (targets, seen) = (Http1Targets::new(), Seen::default());
    let (requests, noted) = (targets.requests(), Arc::clone(&seen));
    let service = service_fn(move |request| {
        let is_refused = requests.next_is_refused();
        note(Arc::clone(&noted), request, is_refused)
    });
    let wire = TokioIo::new(Wire { bytes, at: 0, piece, reader: Reader::Http1(targets) });
    run(hyper::server::conn::http1::Builder::new().serve_connection(wire, service).with_upgrades());
    std::mem::take(&mut *seen.lock())
}

fn seen_over_http2(bytes: Vec<u8>, piece: usize) -> Vec<(String, bool)> {
    let (targets, seen) = (Box::new(Http2Targets::new(65_536)), Seen::default());
    let (marks, noted) = (targets.marks(), Arc::clone(&seen));
    let service = service_fn(move |mut request: Request<Incoming>| {
        let is_refused = marks.apply(&mut request).is_bad_target;
        note(Arc::clone(&noted), request, is_refused)
    });
    let wire = TokioIo::new(Wire { bytes, at: 0, piece, reader: Reader::Http2(targets) });
    run(hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(wire, service));
    std::mem::take(&mut *seen.lock())
}

/// The number in a path that the tests make: `/12`, with or without something behind it.
fn number(path: &str) -> Option<usize> {
    path.strip_prefix('/')?.split(|char: char| !char.is_ascii_digit()).next()?.parse().ok()
}

/// Fields of heads, in and out of order.
const FIELDS: [&str; 16] = [
    "Content-Length: 4\r\n",
    "content-length:\t4 \r\n",
    "Content-Length : 4\r\n",
    "Content-Length: 4, 4\r\n",
    "Content-Length: 4\r\nContent-Length: 4\r\n",
    "Content-Length: +4\r\n",
    "Content-Length: 04\n",
    "Expect: 100-continue\r\nContent-Length: 4\r\n",
    "Content_Length: 4\r\n",
    "transfer-encoding:chunked\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    "Transfer-Encoding: identity\r\n",
    "X: a\r\n b\r\n",
    "Connection: Upgrade\r\nUpgrade: a\r\n",
    "Content-Length: 0\r\n",
];

/// One of `usual`, or sometimes one of `odd`.
fn mostly(usual: &'static str, odd: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop_oneof![24 => Just(usual), 1 => prop::sample::select(odd)]
}

fn line_end() -> impl Strategy<Value = &'static str> {
    mostly("\r\n", &["\n", "\r\r\n", "\r", "\n\r\n", "\r\n\r\n", ""])
}

/// A line of a chunked body: `text`, or sometimes another one, and an end.
fn line(text: &'static str, odd: &'static [&'static str]) -> impl Strategy<Value = String> {
    (mostly(text, odd), line_end()).prop_map(|(text, end)| [text, end].concat())
}

fn chunked_body() -> impl Strategy<Value = String> {
    let size = line("4", &["04", "4;a=\"#\"", "4 ", "\t4", "4;\n", "0", "5", "ffffffffffffffff4", ""]);
    let chunk = (size, line("#/#\n", &["abc", "\r\n\r\n", "GET / "]));
    let chunks = prop::collection::vec(chunk.prop_map(|(size, data)| size + &data), 0..2);
    let text = prop::sample::select(vec!["", "X: a", "X: /#"]);
    let end = prop::sample::select(vec!["\r\n", "\r\n", "\n", "\r\r\n", "\n\r\n"]);
    let trailers = prop::collection::vec((text, end).prop_map(|(text, end)| [text, end].concat()), 0..3);
    (chunks, line("0", &["00", "0;a", "0 "]), trailers, line_end())
        .prop_map(|(chunks, last, trailers, end)| chunks.concat() + &last + &trailers.concat() + end)
}

/// A request whose target is a number of its own, and whether that has a fragment.
fn request() -> impl Strategy<Value = (bool, String, String)> {
    let method = mostly("POST ", &["GET ", "HEAD ", "CONNECT ", "\r\nPUT ", "\nGET ", "\rGET "]);
    let version = mostly(" HTTP/1.1\r\n", &[" HTTP/1.1\n", " HTTP/1.0\r\n", "\r\n", "  HTTP/1.1\r\n"]);
    let body = prop_oneof![
        2 => Just(String::from("\r\n")),
        2 => chunked_body().prop_map(|body| String::from("Transfer-Encoding: chunked\r\n\r\n") + &body),
        1 => (prop::sample::select(&FIELDS[..]), prop_oneof![Just(String::from("/ #\n")), chunked_body()])
            .prop_map(|(fields, body)| String::from(fields) + "\r\n" + &body),
    ];
    (prop::bool::weighted(0.3), method, version, body)
        .prop_map(|(has_fragment, method, version, body)| (has_fragment, method.to_owned(), version.to_owned() + &body))
}

/// A field of a header block.
#[derive(Debug, Clone)]
enum Field {
    /// Whether it has a fragment, whether it is in Huffman's code, whether its name is a number, and whether it is kept.
    Path(bool, bool, bool, u8),
    Indexed(usize),
    /// A value for a name in the dynamic table.
    Renamed(usize, bool),
    Other(&'static str, u8),
    Resize(usize),
    Raw(u8),
}

fn path() -> impl Strategy<Value = Field> {
    let kept = prop::sample::select(vec![0x40, 0x40, 0, 0x10]);
    prop_oneof![
        3 => (prop::bool::weighted(0.3), any::<bool>(), any::<bool>(), kept).prop_map(|(a, b, c, d)| Field::Path(a, b, c, d)),
        3 => (62_usize..65).prop_map(Field::Indexed),
        1 => (62_usize..65, any::<bool>()).prop_map(|(a, b)| Field::Renamed(a, b)),
    ]
}

fn other() -> impl Strategy<Value = Field> {
    let names = vec!["x-a", "x-a", "connection", "te", ":protocol", "X", ":paths", "x-adit-bad-target"];
    prop_oneof![
        4 => (prop::sample::select(names), prop::sample::select(vec![0x40, 0])).prop_map(|(a, b)| Field::Other(a, b)),
        2 => prop::sample::select(vec![0_usize, 60, 100, 4096, 5000]).prop_map(Field::Resize),
        1 => (62_usize..65).prop_map(Field::Indexed),
        1 => any::<u8>().prop_map(Field::Raw),
    ]
}

#[derive(Debug, Clone)]
struct Block {
    fields: Vec<Field>,
    flags: u8,
    depends_on: u8,
    cut: Option<usize>,
}

fn block() -> impl Strategy<Value = Block> {
    let flags = prop::sample::select(vec![0_u8, 0, 8, 0x20, 0x28]);
    let cut = prop::option::weighted(0.3, 0_usize..30);
    let (before, after) = (prop::option::weighted(0.05, other()), prop::option::weighted(0.1, other()));
    ((before, path(), after), flags, any::<bool>(), cut).prop_map(|((before, path, after), flags, is_own, cut)| Block {
        fields: before.into_iter().chain([path]).chain(after).collect(),
        flags,
        depends_on: u8::from(is_own),
        cut,
    })
}

/// A request with a literal path, which the table keeps.
fn plain(has_fragment: bool) -> Block {
    Block { fields: vec![Field::Path(has_fragment, true, true, 0x40)], flags: 0, depends_on: 0, cut: Some(4) }
}

/// The bytes of a connection with these blocks; and of each path in them, whether it has a fragment.
fn connection_of(blocks: &[Block]) -> (Vec<u8>, Vec<bool>) {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    };
    let mut bytes = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat();
    let mut fragments = Vec::new();
    for (at, Block { fields, flags, depends_on, cut }) in blocks.iter().enumerate() {
        let stream = 2 * u8::try_from(at).unwrap() + 1;
        let mut block = Vec::new();
        let mut has_begun = false;
        let mut path = |has_fragment: bool| {
            fragments.push(has_fragment);
            format!("/{}{}", fragments.len() - 1, if has_fragment { "#x" } else { "" })
        };
        for field in fields {
            // A new size comes before everything else.
            if !matches!(field, Field::Resize(_)) && !std::mem::replace(&mut has_begun, true) {
                block.extend([0x82, 0x86]);
            }
            match field {
                Field::Path(has_fragment, is_coded, is_numbered, kept) => {
                    put_integer(&mut block, if *kept == 0x40 { 6 } else { 4 }, if *is_numbered { 4 } else { 0 }, *kept);
                    if !is_numbered {
                        put_string(&mut block, b":path", *is_coded);
                    }
                    put_string(&mut block, path(*has_fragment).as_bytes(), *is_coded);
                }
                Field::Indexed(index) => put_integer(&mut block, 7, *index, 0x80),
                Field::Renamed(index, has_fragment) => {
                    put_integer(&mut block, 6, *index, 0x40);
                    put_string(&mut block, path(*has_fragment).as_bytes(), false);
                }
                Field::Other(name, kept) => {
                    put_integer(&mut block, if *kept == 0x40 { 6 } else { 4 }, 0, *kept);
                    put_string(&mut block, name.as_bytes(), false);
                    put_string(&mut block, b"1", false);
                }
                Field::Resize(size) => put_integer(&mut block, 5, *size, 0x20),
                Field::Raw(byte) => block.push(*byte),
            }
        }
        let mut payload = Vec::new();
        if flags & 8 != 0 {
            payload.push(2);
        }
        if flags & 0x20 != 0 {
            payload.extend([0, 0, 0, if *depends_on == 1 { stream } else { 0 }, 9]);
        }
        let cut = cut.map_or(block.len(), |cut| cut.min(block.len()));
        payload.extend(&block[..cut]);
        if flags & 8 != 0 {
            payload.extend([0, 0]);
        }
        let is_whole = if cut == block.len() { 4 } else { 0 };
        bytes.extend(frame(1, 1 | flags | is_whole, stream, &payload));
        if is_whole == 0 {
            bytes.extend(frame(9, 4, stream, &block[cut..]));
        }
    }
    (bytes, fragments)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_request_of_http_1_with_a_fragment_is_served(requests in prop::collection::vec(request(), 1..7), piece in 1_usize..200) {
        let mut bytes = Vec::new();
        for (at, (has_fragment, method, rest)) in requests.iter().enumerate() {
            bytes.extend(format!("{method}/{at}{}{rest}", if *has_fragment { "#x" } else { "" }).bytes());
        }
        for (path, is_refused) in seen_over_http1(bytes, piece) {
            let has_fragment = number(&path).and_then(|number| requests.get(number)).is_some_and(|request| request.0);
            prop_assert!(is_refused || !has_fragment, "{} was served", path);
        }
    }

    #[test]
    fn no_request_of_http_2_with_a_fragment_is_served(blocks in prop::collection::vec(block(), 1..7), piece in 1_usize..200) {
        // Most of the indices that follow are then in the table.
        let blocks = [&[plain(false), plain(true), plain(false)][..], &blocks].concat();
        let (bytes, fragments) = connection_of(&blocks);
        for (path, is_refused) in seen_over_http2(bytes, piece) {
            let has_fragment = number(&path).and_then(|number| fragments.get(number).copied());
            prop_assert!(is_refused || has_fragment != Some(true), "{} was served", path);
        }
    }
}

#[test]
fn the_libraries_are_asked() {
    let requests =
        b"GET /0 HTTP/1.1\r\n\r\nPOST /1 HTTP/1.1\r\nContent-Length: 1\r\n\r\n#GET /2#x HTTP/1.1\r\n\r\n".to_vec();
    let seen = |paths: [&str; 3]| {
        let refused = [false, false, true];
        paths.iter().zip(refused).map(|(path, is_refused)| ((*path).to_owned(), is_refused)).collect::<Vec<_>>()
    };
    assert_eq!(seen_over_http1(requests, 7), seen(["/0", "/1", "/2"]));
    let (bytes, _) = connection_of(&[plain(false), plain(false), plain(true)]);
    assert_eq!(seen_over_http2(bytes, 7), seen(["/0", "/1", "/2"]));
}
