//! `adit health`: checks whether a server is ready.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anstream::println;
use anstyle::{AnsiColor, Style};
use bytes::Bytes;

use super::Failure;
use super::http::{ATTEMPTS, Connection, PORT_BUSY, is_closed, local_address, pause};
use super::server_file::ServerFile;

/// The deadline for all of it: connecting, the request, the response.
const TIMEOUT: Duration = Duration::from_secs(3);

pub(super) fn run(file: ServerFile) -> Result<(), Failure> {
    let config = file.load()?;
    // The status of the public port depends on whether agents are connected, so any response counts.
    let (key, address, path) = match config.admin.listen {
        Some(address) => ("admin.listen", address, "/readyz"),
        None => ("public.http", config.public.http, "/health"),
    };
    if address.port() == 0 {
        return Err(Failure::other(format!("{key} has the port 0, so it cannot be known here; name one")));
    }
    let address = local_address(address);
    let (status, is_busy) = probe(address, path)
        .map_err(|error| Failure::other(format!("the server does not answer at http://{address}{path}: {error}")))?;
    if path == "/readyz" && status != 200 {
        let why = match status {
            503 if is_busy => ", its admin port is busy with other connections",
            503 => ", it is shutting down",
            _ => "",
        };
        return Err(Failure::other(format!("the server is not ready: http://{address}{path} answers {status}{why}")));
    }
    let green = Style::new().bold().fg_color(Some(AnsiColor::Green.into()));
    println!("{green}fine:{green:#} http://{address}{path} answers {status}");
    Ok(())
}

/// Returns whether a server answers at the admin port `address` within `patience`.
pub(super) fn answers(address: SocketAddr, patience: Duration) -> bool {
    let ask = || {
        let mut connection = Connection::open(local_address(address), Instant::now() + patience)?;
        let response = connection.get("/readyz", &[])?;
        Ok::<_, io::Error>(matches!(response.status, 200 | 503))
    };
    address.port() != 0 && ask().unwrap_or(false)
}

/// Returns the status of the response, and whether the server's admin port is busy. Retries while it is.
fn probe(address: SocketAddr, path: &str) -> io::Result<(u16, bool)> {
    let deadline = Instant::now() + TIMEOUT;
    let once = || {
        let mut connection = Connection::open(address, deadline)?;
        let response = connection.get(path, &[])?;
        let status = response.status;
        // A server that closes the connection after the head has responded.
        let body = if status == 503 { connection.body(response).unwrap_or_default() } else { Bytes::new() };
        let is_busy = body.windows(PORT_BUSY.len()).any(|word| word == PORT_BUSY.as_bytes());
        Ok((status, is_busy))
    };
    for _ in 1..ATTEMPTS {
        match once() {
            Ok((_, true)) => pause(),
            Err(error) if is_closed(&error) => pause(),
            other => return other,
        }
    }
    once()
}
