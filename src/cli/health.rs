//! `adit health`

use std::time::Duration;

use anstream::println;
use anstyle::{AnsiColor, Style};

use super::Failure;
use super::ask::{Connection, from_here};
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
    let answer = Connection::open(address, PATIENCE).and_then(|mut connection| connection.get(path, &[]));
    let status = answer
        .map(|head| head.status)
        .map_err(|error| Failure::other(format!("the server does not answer at http://{address}{path}: {error}")))?;
    if path == "/readyz" && status != 200 {
        let why = if status == 503 { ", it is shutting down" } else { "" };
        return Err(Failure::other(format!("the server is not ready: http://{address}{path} answers {status}{why}")));
    }
    let green = Style::new().bold().fg_color(Some(AnsiColor::Green.into()));
    println!("{green}fine:{green:#} http://{address}{path} answers {status}");
    Ok(())
}
