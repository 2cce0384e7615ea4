//! `adit health`

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anstream::println;
use anstyle::{AnsiColor, Style};

use super::Failure;
use super::ask::{Connection, PORT_BUSY, TRIES, from_here, is_closed, pause};
use super::server_file::ServerFile;

/// For all of it: connecting, asking, the answer.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn run(file: ServerFile) -> Result<(), Failure> {
    let config = file.load()?;
    // The public port's page says whether anybody is connected, which is not the server's fault: any answer will do.
    let (key, address, path) = match config.admin.listen {
        Some(address) => ("admin.listen", address, "/readyz"),
        None => ("public.http", config.public.http, "/health"),
    };
    if address.port() == 0 {
        return Err(Failure::other(format!("{key} has the port 0, so it cannot be known here; name one")));
    }
    let address = from_here(address);
    let (status, is_busy) = ask(address, path)
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

/// Returns the status of the response, and whether the server's admin port is busy. Retries while it is.
fn ask(address: SocketAddr, path: &str) -> io::Result<(u16, bool)> {
    let end = Instant::now() + PATIENCE;
    let once = || {
        let mut connection = Connection::open(address, end)?;
        let head = connection.get(path, &[])?;
        // A server that closes the connection after the head has answered.
        let body = if head.status == 503 { connection.body(&head).unwrap_or_default() } else { Vec::new() };
        let is_busy = body.windows(PORT_BUSY.len()).any(|word| word == PORT_BUSY.as_bytes());
        Ok((head.status, is_busy))
    };
    for _ in 1..TRIES {
        match once() {
            Ok((_, true)) => pause(),
            Err(error) if is_closed(&error) => pause(),
            other => return other,
        }
    }
    once()
}
