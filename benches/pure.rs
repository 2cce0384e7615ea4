//! The parts of a request's path that do no I/O: routing, and the form of an exchange that crosses a stream.
//! `make bench-pure` runs it; criterion compares with the run before.

#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

use std::hint::black_box;
use std::net::SocketAddr;

use adit::protocol::decode::Decoder;
use adit::protocol::exchange::{RequestHead, ResponseHead, Scheme};
use adit::protocol::frame::{self, Status};
use adit::protocol::login::ServiceKind;
use adit::protocol::preface::Preface;
use adit::routing::{Asked, Router, RoutingMode, host_of, is_authority, strip_name};
use adit::values::{Name, RequestId};
use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

const HEAD_SIZE: usize = 64 * 1024;

/// What a browser sends.
const ASKED: &[(&str, &str)] = &[
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "en-GB,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("cookie", "session=0123456789abcdef0123456789abcdef; theme=dark"),
    ("referer", "https://alice.tunnel.example.com/albums/"),
    ("x-forwarded-for", "192.0.2.7"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "alice.tunnel.example.com"),
];

/// What an application answers.
const ANSWERED: &[(&str, &str)] = &[
    ("server", "nginx/1.22.1"),
    ("date", "Sat, 01 Aug 2026 12:00:00 GMT"),
    ("content-type", "text/html; charset=utf-8"),
    ("content-length", "100"),
    ("last-modified", "Fri, 31 Jul 2026 12:00:00 GMT"),
    ("etag", "\"64c7a3b8-64\""),
    ("cache-control", "private, max-age=60"),
];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    routing(&mut criterion);
    encoding(&mut criterion);
    decoding(&mut criterion);
    criterion.final_summary();
}

fn routing(criterion: &mut Criterion) {
    let router = Router::new("tunnel.example.com", [RoutingMode::Subdomain, RoutingMode::Header, RoutingMode::Path]);
    let mut group = criterion.benchmark_group("routing");
    for (name, authority, path, header) in [
        ("subdomain", "alice.tunnel.example.com:9090", "/albums/1?size=large", None),
        ("header", "tunnel.example.com", "/albums/1", Some("alice")),
        ("path", "tunnel.example.com", "/alice/albums/1", None),
        ("domain", "blog.alice.example", "/albums/1", None),
    ] {
        let asked = Asked { authority: Some(authority), path, header };
        group.bench_function(name, |bencher| bencher.iter(|| router.route(black_box(asked))));
    }
    group.bench_function("authority", |bencher| {
        bencher.iter(|| {
            let text = black_box("alice.tunnel.example.com:9090");
            (is_authority(text.as_bytes()), host_of(text).len())
        });
    });
    group.bench_function("strip name", |bencher| bencher.iter(|| strip_name(black_box("/alice/albums/1?size=large"))));
    group.finish();
}

fn encoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    let (preface, request, response) = (preface(), request(), response());
    let mut out = BytesMut::with_capacity(HEAD_SIZE);
    group.bench_function("preface", |bencher| {
        bencher.iter(|| {
            out.clear();
            preface.put(&mut out).unwrap();
        });
    });
    group.bench_function("request head", |bencher| {
        bencher.iter(|| {
            out.clear();
            request.put(&mut out).unwrap();
        });
    });
    group.bench_function("response head", |bencher| {
        bencher.iter(|| {
            out.clear();
            response.put(&mut out).unwrap();
        });
    });
    group.finish();
}

fn decoding(criterion: &mut Criterion) {
    let (request, response) = (asked(), answered(100));
    let mut group = criterion.benchmark_group("decode");
    group.bench_function("request", |bencher| {
        bencher.iter_batched(
            || request.clone(),
            |input| drain(Decoder::request(HEAD_SIZE), input),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("response", |bencher| {
        bencher.iter_batched(
            || response.clone(),
            |input| drain(Decoder::response(HEAD_SIZE), input),
            BatchSize::SmallInput,
        );
    });
    group.finish();

    let mut group = criterion.benchmark_group("decode a body");
    let large = answered(1 << 20);
    group.throughput(Throughput::Bytes(1 << 20));
    for piece in [1400, 16 * 1024, 64 * 1024] {
        group.bench_function(format!("in pieces of {piece}"), |bencher| {
            bencher.iter(|| {
                let mut decoder = Decoder::response(HEAD_SIZE);
                let mut events = 0;
                for start in (0..large.len()).step_by(piece) {
                    let mut input = large.slice(start..large.len().min(start + piece));
                    while decoder.next(&mut input).unwrap().is_some() {
                        events += 1;
                    }
                }
                events
            });
        });
    }
    group.finish();
}

/// Reads everything, and says how much there was.
fn drain(mut decoder: Decoder, mut input: Bytes) -> usize {
    let mut events = 0;
    while decoder.next(&mut input).unwrap().is_some() {
        events += 1;
    }
    events
}

/// All that the server sends for a request without a body.
fn asked() -> Bytes {
    let mut out = BytesMut::new();
    preface().put(&mut out).unwrap();
    request().put(&mut out).unwrap();
    frame::put_end(&mut out);
    out.freeze()
}

/// All that the agent answers, with a body of `size` bytes.
fn answered(size: usize) -> Bytes {
    let mut out = BytesMut::new();
    out.extend_from_slice(&[Status::Accepted as u8]);
    response().put(&mut out).unwrap();
    frame::put_data(&mut out, &vec![b'x'; size]);
    frame::put_end(&mut out);
    out.freeze()
}

fn preface() -> Preface {
    Preface {
        service: Name::new("alice").unwrap(),
        visitor: SocketAddr::from(([192, 0, 2, 7], 50000)),
        server: SocketAddr::from(([198, 51, 100, 1], 443)),
        kind: ServiceKind::Http,
        request_id: RequestId(0x0123_4567_89ab_cdef),
    }
}

fn request() -> RequestHead {
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Https,
        authority: Some(Bytes::from_static(b"alice.tunnel.example.com")),
        target: Bytes::from_static(b"/albums/1?size=large"),
        protocol: None,
        version: Version::HTTP_11,
        headers: fields(ASKED),
        has_body: false,
    }
}

fn response() -> ResponseHead {
    ResponseHead {
        status: StatusCode::OK,
        version: Version::HTTP_11,
        headers: fields(ANSWERED),
        local: None,
        reason: None,
    }
}

fn fields(list: &[(&'static str, &'static str)]) -> HeaderMap {
    list.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}
