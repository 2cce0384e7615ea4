//! A collector: takes spans by OTLP over HTTP, and reads of them what tests look at. The numbers are those of the fields
//! in opentelemetry/proto/trace/v1/trace.proto and its neighbours.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Response};
use http_body_util::{BodyExt, Full};
use tokio::sync::mpsc;

use crate::harness::apps;

/// What a span says.
#[derive(Debug, Default, Clone)]
pub struct Span {
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub state: String,
    pub name: String,
    /// 2: of a server.
    pub kind: u64,
    pub attributes: BTreeMap<String, String>,
    pub events: Vec<String>,
    /// 2: an error.
    pub status: u64,
    pub begin: u64,
    pub end: u64,
    /// Of what has made it.
    pub resource: BTreeMap<String, String>,
}

impl Span {
    pub fn get(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

pub struct Collector {
    pub address: SocketAddr,
    batches: mpsc::UnboundedReceiver<Bytes>,
}

impl Collector {
    pub async fn start() -> Self {
        let (sender, batches) = mpsc::unbounded_channel();
        let address = apps::with(move |request| {
            let sender = sender.clone();
            async move {
                assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/v1/traces"));
                assert_eq!(request.headers()["content-type"], "application/x-protobuf");
                sender.send(request.into_body().collect().await.unwrap().to_bytes()).unwrap();
                Response::new(Full::default())
            }
        })
        .await;
        Self { address, batches }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What has come so far, as it came.
    pub fn raw(&mut self) -> Vec<u8> {
        std::iter::from_fn(|| self.batches.try_recv().ok()).flatten().collect()
    }

    /// What has come so far.
    pub fn spans(&mut self) -> Vec<Span> {
        // Messages of protobuf behind each other are one.
        spans_of(&self.raw())
    }
}

/// The spans of an `ExportTraceServiceRequest`.
pub fn spans_of(message: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    for of_resource in inside(message, 1) {
        let resource = inside(of_resource, 1).flat_map(|resource| attributes(resource, 1)).collect::<BTreeMap<_, _>>();
        for span in inside(of_resource, 2).flat_map(|of_scope| inside(of_scope, 2)) {
            spans.push(Span { resource: resource.clone(), ..one(span) });
        }
    }
    spans
}

fn one(message: &[u8]) -> Span {
    let hex = |number| inside(message, number).flatten().map(|byte| format!("{byte:02x}")).collect();
    let text = |number| inside(message, number).map(String::from_utf8_lossy).collect();
    let events = inside(message, 11).map(|event| inside(event, 2).map(String::from_utf8_lossy).collect());
    Span {
        trace: hex(1),
        id: hex(2),
        state: text(3),
        parent: hex(4),
        name: text(5),
        kind: number(message, 6),
        begin: number(message, 7),
        end: number(message, 8),
        attributes: attributes(message, 9).collect(),
        events: events.collect(),
        status: inside(message, 15).map(|status| number(status, 3)).sum(),
        ..Span::default()
    }
}

fn attributes(message: &[u8], field: u64) -> impl Iterator<Item = (String, String)> {
    inside(message, field).map(|pair| {
        let key = inside(pair, 1).map(String::from_utf8_lossy).collect();
        let value = inside(pair, 2).next().unwrap();
        let text: String = inside(value, 1).map(String::from_utf8_lossy).collect();
        (key, if text.is_empty() { number(value, 3).to_string() } else { text })
    })
}

/// What is in the fields of this number.
fn inside(message: &[u8], field: u64) -> impl Iterator<Item = &[u8]> {
    fields(message).filter_map(move |(number, value)| match value {
        Value::Bytes(bytes) if number == field => Some(bytes),
        _ => None,
    })
}

/// The number in a field, 0 if it is not there.
fn number(message: &[u8], field: u64) -> u64 {
    let mut found = fields(message).filter_map(|(number, value)| match value {
        Value::Number(value) if number == field => Some(value),
        _ => None,
    });
    found.next().unwrap_or_default()
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message of protobuf, in their order.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = (u64, Value<'_>)> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let tag = varint(&mut rest);
        let mut take = |count: usize| {
            let (taken, left) = rest.split_at(count);
            rest = left;
            taken
        };
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut rest)),
            1 => Value::Number(u64::from_le_bytes(take(8).try_into().unwrap())),
            5 => Value::Number(u32::from_le_bytes(take(4).try_into().unwrap()).into()),
            2 => {
                let length = varint(&mut rest) as usize;
                let (taken, left) = rest.split_at(length);
                rest = left;
                Value::Bytes(taken)
            }
            kind => panic!("a field of kind {kind}"),
        };
        Some((tag >> 3, value))
    })
}

fn varint(rest: &mut &[u8]) -> u64 {
    let mut number = 0;
    for at in 0.. {
        let (byte, left) = rest.split_first().unwrap();
        *rest = left;
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}
