//! Waits until a running server has applied what a command has written, so that the next command can rely on it.

use std::time::{Duration, Instant};

use anstream::eprintln;

use super::files::Site;
use crate::auth::Applied;
use crate::cli::Failure;
use crate::cli::admin::AdminPort;
use crate::config::ClientsFile;

/// How long a server may take, and how often it is looked at.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Returns once a server that goes by this clients file has applied it, and says so on standard error; or that none is
/// running; or that neither can be told.
///
/// # Errors
/// A server is running, and cannot use the file or does not get round to it.
pub(super) fn wait_until_applied(site: &Site) -> Result<(), Failure> {
    match by_admin_port(site) {
        Some(refused) => refused.map_or_else(applied, |problems| Err(refused_by_server(&problems.join("\n")))),
        None => by_file(site),
    }
}

/// Asks the server at its admin port, which is the quickest; `None`, if it cannot be asked.
fn by_admin_port(site: &Site) -> Option<Option<Vec<String>>> {
    let port = AdminPort::of(site.server()?).ok()?;
    Some(port.meet().ok()?.reload_clients().ok()?.err())
}

/// Looks at what a server says beside the file.
fn by_file(site: &Site) -> Result<(), Failure> {
    let began = Instant::now();
    let unknown = |why: &str| {
        eprintln!("Whether a server is running cannot be told ({why}); one that is applies the change by itself.");
        Ok(())
    };
    while began.elapsed() < PATIENCE {
        match Applied::look(&site.clients) {
            Ok(Applied::Is(digest)) if ClientsFile::load_digested(&site.clients)?.1 == digest => return applied(),
            Ok(Applied::Is(_) | Applied::NotYet) => {}
            // What it refused may be an earlier text of the file.
            Ok(Applied::Refused(problems)) if began.elapsed() > PATIENCE / 2 => {
                return Err(refused_by_server(&problems));
            }
            Ok(Applied::Refused(_)) => {}
            Ok(Applied::NoServer) => {
                eprintln!("No server is running: the next one to start reads the file.");
                return Ok(());
            }
            Ok(Applied::Unknown) => {
                eprintln!(
                    "No server is running that is known to use this file; one that is all the same applies the change by \
                     itself."
                );
                return Ok(());
            }
            Err(error) => return unknown(&error.to_string()),
        }
        #[expect(clippy::disallowed_methods, reason = "there is no runtime here to block")]
        std::thread::sleep(LOOK_AGAIN);
    }
    Err(Failure::Other(format!(
        "a server is running and has not applied the change within {} s; its log says why",
        PATIENCE.as_secs()
    )))
}

fn applied() -> Result<(), Failure> {
    eprintln!("The running server has applied the change.");
    Ok(())
}

fn refused_by_server(problems: &str) -> Failure {
    Failure::Other(format!(
        "the running server cannot use the clients file, and what it said before still counts:\n{problems}"
    ))
}
