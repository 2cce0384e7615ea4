//! Waits until the running server has applied a change of the clients file, so that the next command can rely on it.

use std::time::{Duration, Instant};

use anstream::eprintln;

use super::files::Site;
use crate::cli::Failure;
use crate::cli::admin::AdminPort;
use crate::tenants::entry::ClientsFile;
use crate::tenants::file_store::server_status::ServerStatus;

/// How long the server may take, and how often its state is checked.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Waits until the server that uses this clients file has applied it, and reports that on standard error. Also reports
/// that no server is running, or that this is unknown.
///
/// # Errors
/// A server is running, but it cannot use the file or does not apply it in time.
pub(super) fn wait_until_applied(site: &Site) -> Result<(), Failure> {
    match by_admin_port(site) {
        Some(refused) => refused.map_or_else(applied, |problems| Err(refused_by_server(&problems.join("\n")))),
        None => by_file(site),
    }
}

/// Asks the server at its admin port, which is the fastest way. Returns `None` if it cannot be asked.
fn by_admin_port(site: &Site) -> Option<Option<Vec<String>>> {
    let port = AdminPort::of(site.server()?).ok()?;
    Some(port.connect().ok()?.reload_clients().ok()?.err())
}

/// Polls the status file that a server keeps beside the clients file.
fn by_file(site: &Site) -> Result<(), Failure> {
    let began = Instant::now();
    let unknown = |why: &str| {
        eprintln!(
            "Cannot tell whether a server is running ({why}). A running server reloads the file when it changes."
        );
        Ok(())
    };
    while began.elapsed() < PATIENCE {
        match ServerStatus::read(&site.clients) {
            Ok(ServerStatus::Applied(digest)) if ClientsFile::load_version(&site.clients, false)?.1 == digest => {
                return applied();
            }
            Ok(ServerStatus::Applied(_) | ServerStatus::Starting) => {}
            // It may have refused an earlier version of the file.
            Ok(ServerStatus::Refused(problems)) if began.elapsed() > PATIENCE / 2 => {
                return Err(refused_by_server(&problems));
            }
            Ok(ServerStatus::Refused(_)) => {}
            Ok(ServerStatus::NoServer) => {
                eprintln!("No server is running: the change applies when the server starts.");
                return Ok(());
            }
            Ok(ServerStatus::Unknown) => {
                eprintln!(
                    "No running server is known to use this file. A server that does use it reloads it when it changes."
                );
                return Ok(());
            }
            Err(error) => return unknown(&error.to_string()),
        }
        #[expect(clippy::disallowed_methods, reason = "there is no runtime here to block")]
        std::thread::sleep(LOOK_AGAIN);
    }
    Err(Failure::Other(format!(
        "the running server did not apply the change within {} s; see its log for the reason",
        PATIENCE.as_secs()
    )))
}

fn applied() -> Result<(), Failure> {
    eprintln!("The running server has applied the change.");
    Ok(())
}

fn refused_by_server(problems: &str) -> Failure {
    Failure::Other(format!(
        "the running server cannot use the clients file and keeps the previous version:\n{problems}"
    ))
}
