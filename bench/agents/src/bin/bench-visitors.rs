//! Many visitors in one process. What they saw is one line of JSON.
//!
//! - `bench-visitors ask PORT DOMAIN TUNNELS SECONDS`: every tunnel is asked for `/100` once a second, over 64 kept connections.
//!   A time counts from when the request should have begun.
//! - `bench-visitors hold PORT DOMAIN TUNNELS COUNT`: so many WebSockets (RFC 8441), one after the other through each tunnel,
//!   are opened on HTTP/2 connections of 200. Says `held`, and at every line on standard input sends a message over each and says
//!   how many came back.
//!
//! Tunnel number `i` has the name `c{i / 50}-{i % 50}`.

use std::error::Error;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::TaskTracker;

type Failure = Box<dyn Error + Send + Sync>;

/// Tunnels of one client, as `bench-agents` numbers them.
const OF_A_CLIENT: usize = 50;

/// Connections that ask.
const ASKING: usize = 64;

/// WebSockets on one HTTP/2 connection.
const OF_A_CONNECTION: usize = 200;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

const USAGE: &str = "usage: bench-visitors ask PORT DOMAIN TUNNELS SECONDS | hold PORT DOMAIN TUNNELS COUNT";

/// Where they go.
struct Way {
    port: u16,
    domain: String,
    tunnels: usize,
}

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [what, port, domain, tunnels, number] = words.as_slice() else { return Err(USAGE.into()) };
    let way = Arc::new(Way { port: port.parse()?, domain: domain.clone(), tunnels: tunnels.parse()? });
    let number = number.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match what.as_str() {
        "ask" => runtime.block_on(ask(way, number)),
        "hold" => runtime.block_on(hold(way, number)),
        _ => Err(USAGE.into()),
    }
}

impl Way {
    fn host(&self, tunnel: usize) -> String {
        format!("c{}-{}.{}", tunnel / OF_A_CLIENT, tunnel % OF_A_CLIENT, self.domain)
    }

    async fn connect(&self) -> Result<TokioIo<TcpStream>, Failure> {
        let socket = timeout(PATIENCE, TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))).await??;
        socket.set_nodelay(true)?;
        Ok(TokioIo::new(socket))
    }
}

/// What one connection saw.
#[derive(Default)]
struct Seen {
    times: Vec<Duration>,
    failures: usize,
}

async fn ask(way: Arc<Way>, seconds: usize) -> Result<(), Failure> {
    let begin = Instant::now() + Duration::from_secs(1);
    let mut asking: JoinSet<Result<Seen, Failure>> = JoinSet::new();
    for number in 0..ASKING.min(way.tunnels) {
        asking.spawn(ask_in_turn(Arc::clone(&way), number, (begin, seconds)));
    }
    let mut all = Seen::default();
    while let Some(seen) = asking.join_next().await {
        let seen = seen??;
        all.times.extend(seen.times);
        all.failures += seen.failures;
    }
    all.times.sort_unstable();
    let quantile =
        |part: usize| all.times.get(all.times.len() * part / 1000).map_or(0.0, |time| time.as_secs_f64() * 1e3);
    let (p50, p99, most) =
        (quantile(500), quantile(990), all.times.last().map_or(0.0, |time| time.as_secs_f64() * 1e3));
    println!(
        r#"{{"asked": {}, "failures": {}, "p50": {p50:.3}, "p99": {p99:.3}, "most": {most:.3}}}"#,
        all.times.len() + all.failures,
        all.failures
    );
    Ok(())
}

/// Asks every 64th tunnel once a second, one after the other.
async fn ask_in_turn(way: Arc<Way>, number: usize, (begin, seconds): (Instant, usize)) -> Result<Seen, Failure> {
    let (mut sender, connection) = http1::handshake(way.connect().await?).await?;
    let mut seen = Seen::default();
    let asking = async {
        for second in 0..seconds {
            for tunnel in (number..way.tunnels).step_by(ASKING) {
                let part = tunnel as f64 / way.tunnels as f64;
                let due = begin + Duration::from_secs_f64(second as f64 + part);
                sleep_until(due).await;
                let request = Request::get("/100").header(header::HOST, way.host(tunnel)).body(Empty::<Bytes>::new())?;
                let answer = timeout(PATIENCE, sender.send_request(request)).await??;
                let is_good = answer.status() == StatusCode::OK;
                timeout(PATIENCE, answer.into_body().collect()).await??;
                match is_good {
                    true => seen.times.push(due.elapsed()),
                    false => seen.failures += 1,
                }
            }
        }
        Ok::<_, Failure>(())
    };
    tokio::select! {
        asked = asking => asked?,
        ended = connection => return Err(format!("a connection has ended: {ended:?}").into()),
    }
    Ok(seen)
}

async fn hold(way: Arc<Way>, count: usize) -> Result<(), Failure> {
    let mut opening: JoinSet<Result<Vec<TokioIo<Upgraded>>, Failure>> = JoinSet::new();
    let mut held = Vec::with_capacity(count);
    let connections = TaskTracker::new();
    for first in (0..count).step_by(OF_A_CONNECTION) {
        let (way, connections, last) = (Arc::clone(&way), connections.clone(), count.min(first + OF_A_CONNECTION));
        // A few at a time: the applications are small.
        if opening.len() >= 4
            && let Some(opened) = opening.join_next().await
        {
            held.extend(opened??);
        }
        opening.spawn(async move {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), way.connect().await?).await?;
            // It lives as long as its WebSockets.
            connections.spawn(connection);
            let mut open = Vec::new();
            for number in first..last {
                open.push(open_websocket(sender.clone(), &way.host(number % way.tunnels)).await?);
            }
            Ok(open)
        });
    }
    while let Some(opened) = opening.join_next().await {
        held.extend(opened??);
    }
    say(&format!("held {}", held.len()))?;
    let mut told = BufReader::new(tokio::io::stdin()).lines();
    while told.next_line().await?.is_some() {
        let mut came_back = 0;
        for socket in &mut held {
            came_back += usize::from(echo(socket).await.is_ok());
        }
        say(&format!("came back {came_back}"))?;
    }
    Ok(())
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")?;
    out.flush()
}

async fn open_websocket(
    mut sender: http2::SendRequest<Empty<Bytes>>,
    host: &str,
) -> Result<TokioIo<Upgraded>, Failure> {
    let mut request = Request::connect(format!("http://{host}/echo")).body(Empty::new())?;
    request.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    let answer = timeout(PATIENCE, sender.send_request(request)).await??;
    if answer.status() != StatusCode::OK {
        return Err(format!("a WebSocket to {host} was answered with {}", answer.status()).into());
    }
    Ok(TokioIo::new(timeout(PATIENCE, hyper::upgrade::on(answer)).await??))
}

/// A masked message of eight bytes, and the same, unmasked, back (RFC 6455).
async fn echo(socket: &mut TokioIo<Upgraded>) -> Result<(), Failure> {
    let mut back = [0; 10];
    timeout(PATIENCE, async {
        socket.write_all(b"\x82\x88\0\0\0\0anybody?").await?;
        socket.flush().await?;
        socket.read_exact(&mut back).await
    })
    .await??;
    if &back[2..] == b"anybody?" { Ok(()) } else { Err("something else came back".into()) }
}
