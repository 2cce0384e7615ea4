//! A gRPC application (`serve PORT`) and a client of it (`ask AUTHORITY PORT`), without generated code: messages are
//! bytes as they are.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataValue;
use tonic::server::{NamedService, StreamingService};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};

/// Messages as they are.
#[derive(Debug, Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(input.copy_to_bytes(input.remaining())))
    }
}

type Messages = std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// The methods, by the last part of their path.
#[derive(Debug, Clone)]
struct Method(String);

impl StreamingService<Bytes> for Method {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response<Messages>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let method = self.0.clone();
        Box::pin(async move {
            let metadata = request.metadata().clone();
            let mut messages = request.into_inner();
            let answers: Messages = match method.as_str() {
                // One message, one answer.
                "Unary" => {
                    let message = messages.message().await?.unwrap_or_default();
                    Box::pin(tokio_stream::once(Ok(message.to_ascii_uppercase().into())))
                }
                // One message, which says how many answers it wants.
                "ServerStream" => {
                    let message = messages.message().await?.unwrap_or_default();
                    let count: u32 = std::str::from_utf8(&message).ok().and_then(|text| text.parse().ok()).unwrap_or(3);
                    Box::pin(tokio_stream::iter((0..count).map(|number| Ok(Bytes::from(number.to_string())))))
                }
                // Many messages, one answer: how many bytes there were.
                "ClientStream" => {
                    let mut total = 0;
                    while let Some(message) = messages.message().await? {
                        total += message.len();
                    }
                    Box::pin(tokio_stream::once(Ok(Bytes::from(total.to_string()))))
                }
                // Each message is answered before the next one comes.
                "Bidi" => Box::pin(messages.map(|message| message.map(|message| message.to_ascii_uppercase().into()))),
                "Fails" => {
                    let mut status = Status::new(Code::FailedPrecondition, "not like this: 100 % wrong, é");
                    status.metadata_mut().insert("x-detail", MetadataValue::from_static("detail"));
                    status.metadata_mut().insert_bin("x-detail-bin", MetadataValue::from_bytes(&[0, 1, 255]));
                    return Err(status);
                }
                "FailsLate" => Box::pin(tokio_stream::iter([
                    Ok(Bytes::from_static(b"first")),
                    Err(Status::new(Code::DataLoss, "then lost")),
                ])),
                "Sleeps" => {
                    tokio::time::sleep(Duration::from_secs(30)).await;
                    Box::pin(tokio_stream::once(Ok(Bytes::new())))
                }
                _ => return Err(Status::unimplemented("no such method")),
            };
            let mut response = Response::new(answers);
            for key in ["x-mine", "x-mine-bin"] {
                if let Some(value) = metadata.as_ref().get(key) {
                    response.metadata_mut().as_mut().insert(key, value.clone());
                }
            }
            Ok(response)
        })
    }
}

#[derive(Debug, Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "fidelity.Echo";
}

impl tower_service::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        Box::pin(async move { Ok(tonic::server::Grpc::new(Plain).streaming(Method(method), request).await) })
    }
}

async fn serve(port: u16) -> Result<(), Box<dyn std::error::Error>> {
    Server::builder().add_service(Echo).serve(([127, 0, 0, 1], port).into()).await?;
    Ok(())
}

async fn all(messages: &mut Streaming<Bytes>) -> String {
    let mut seen = Vec::new();
    loop {
        match messages.message().await {
            Ok(Some(message)) => seen.push(String::from_utf8_lossy(&message).into_owned()),
            Ok(None) => break,
            Err(status) => {
                seen.push(said(&status));
                break;
            }
        }
    }
    seen.join(" ")
}

fn said(status: &Status) -> String {
    let detail = status.metadata().get("x-detail").map(|value| format!(" {value:?}")).unwrap_or_default();
    let binary = status.metadata().get_bin("x-detail-bin").map(|value| format!(" {value:?}")).unwrap_or_default();
    format!("{:?} {:?}{detail}{binary}", status.code(), status.message())
}

/// Asks everything there is to ask, and prints a line for each.
async fn ask(authority: &str, port: u16) -> Result<(), Box<dyn std::error::Error>> {
    let channel: Channel = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?
        .origin(format!("http://{authority}").parse()?)
        .connect()
        .await?;
    let mut grpc = tonic::client::Grpc::new(channel);
    let path = |method: &str| PathAndQuery::try_from(format!("/fidelity.Echo/{method}"));
    let words = |words: &[&'static str]| tokio_stream::iter(words.to_vec()).map(|word| Bytes::from_static(word.as_bytes()));
    for (method, messages) in [
        ("Unary", &["hello"][..]),
        ("Unary", &[""]),
        ("ServerStream", &["1000"]),
        ("ServerStream", &["0"]),
        ("ClientStream", &["a", "bb", "ccc"]),
        ("ClientStream", &[]),
        ("Bidi", &["x", "y", "z"]),
        ("Fails", &["x"]),
        ("FailsLate", &["x"]),
        ("NoSuchMethod", &["x"]),
    ] {
        grpc.ready().await?;
        let mut request = Request::new(words(messages));
        request.metadata_mut().insert("x-mine", MetadataValue::from_static("metadata"));
        request.metadata_mut().insert_bin("x-mine-bin", MetadataValue::from_bytes(&[255, 0]));
        let answer = match grpc.streaming(request, path(method)?, Plain).await {
            Ok(answer) => answer,
            Err(status) => {
                println!("{method}: {}", said(&status));
                continue;
            }
        };
        let metadata = (answer.metadata().get("x-mine").cloned(), answer.metadata().get_bin("x-mine-bin").cloned());
        let mut messages = answer.into_inner();
        let mut seen = all(&mut messages).await;
        if seen.len() > 200 {
            seen = format!("{} words", seen.split(' ').count());
        }
        println!("{method}: {seen} {metadata:?}");
    }
    // A message of four megabytes, less a few bytes: more is refused by the library itself.
    grpc.ready().await?;
    let large = Bytes::from(vec![b'l'; 4_000_000]);
    let answer = grpc.streaming(Request::new(tokio_stream::once(large)), path("Unary")?, Plain).await?;
    println!("large: {}", answer.into_inner().message().await?.map_or(0, |message| message.len()));
    // A deadline of the caller's.
    grpc.ready().await?;
    let mut request = Request::new(tokio_stream::once(Bytes::new()));
    request.set_timeout(Duration::from_millis(200));
    let late = grpc.streaming(request, path("Sleeps")?, Plain).await;
    // Both sides count, and either may be the first to say so.
    let ended = late.is_err_and(|status| matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded));
    println!("deadline: {ended}");
    // Turn by turn: nothing is held back until there is more.
    grpc.ready().await?;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.send(Bytes::from_static(b"turn 0")).await?;
    let turns = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = grpc.streaming(Request::new(turns), path("Bidi")?, Plain).await?.into_inner();
    for turn in 1..=100 {
        let answer = answers.message().await?.unwrap_or_default();
        assert_eq!(answer, format!("TURN {}", turn - 1));
        sender.send(Bytes::from(format!("turn {turn}"))).await?;
    }
    drop(sender);
    println!("turns: {}", all(&mut answers).await);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve", port] => serve(port.parse()?).await,
        ["ask", authority, port] => ask(authority, port.parse()?).await,
        _ => Err("usage: fidelity-grpc serve PORT | ask AUTHORITY PORT".into()),
    }
}
