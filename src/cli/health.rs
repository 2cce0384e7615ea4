//! `adit health`

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anstream::println;
use anstyle::{AnsiColor, Style};

use super::Failure;
use super::server::setting;
use crate::config::{Flags, ServerConfig};

/// For all of it: connecting, asking, the answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// More than the pages that are asked for have.
const MOST: usize = 4096;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The server's configuration file [default: config/server.toml, if it is there]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override one setting of it
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let flags = args.settings.into_iter().fold(Flags::new(), |flags, (key, value)| flags.with(&key, value));
    let config = ServerConfig::load(args.config.as_deref(), &flags)?;
    // The public port's page says whether anybody is connected, which is not the server's fault: any answer will do.
    let (key, address, path) = match config.admin.listen {
        Some(address) => ("admin.listen", address, "/readyz"),
        None => ("public.http", config.public.http, "/health"),
    };
    if address.port() == 0 {
        return Err(Failure::other(format!("{key} has the port 0, so it cannot be known here; name one")));
    }
    let address = from_here(address);
    let status = ask(address, path)
        .map_err(|error| Failure::other(format!("the server does not answer at http://{address}{path}: {error}")))?;
    if path == "/readyz" && status != "200" {
        let why = if status == "503" { ", it is shutting down" } else { "" };
        return Err(Failure::other(format!("the server is not ready: http://{address}{path} answers {status}{why}")));
    }
    let green = Style::new().bold().fg_color(Some(AnsiColor::Green.into()));
    println!("{green}fine:{green:#} http://{address}{path} answers {status}");
    Ok(())
}

/// Where a program on the same machine reaches what listens there.
pub(super) fn from_here(listens: SocketAddr) -> SocketAddr {
    let ip = match listens.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        // `[::]` takes IPv4 too, and is `0.0.0.0` where there is no IPv6.
        IpAddr::V6(ip) if ip == Ipv6Addr::UNSPECIFIED => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listens.port())
}

/// The status of the answer.
fn ask(address: SocketAddr, path: &str) -> io::Result<String> {
    let end = Instant::now() + PATIENCE;
    let left = || match end.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
        left => Ok(left),
    };
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_write_timeout(Some(left()?))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let (mut answer, mut length) = ([0; MOST], 0);
    while !answer[..length].contains(&b'\n') && length < MOST {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut answer[length..])? {
            0 => break,
            read => length += read,
        }
    }
    let head = String::from_utf8_lossy(&answer[..length]);
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    status.map(str::to_owned).ok_or_else(|| io::Error::other("it speaks no HTTP"))
}
