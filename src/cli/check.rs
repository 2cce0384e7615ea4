//! `adit check`

use std::path::{Path, PathBuf};

use anstream::{eprintln, println};
use anstyle::{AnsiColor, Style};

use super::server::begins_clients;
use super::{Failure, runtime};
use crate::agent::options::AgentOptions;
use crate::config::{Kind, Looks, check};
use crate::schema::{ConfigErrors, Flags, Problem};
use crate::server::lifecycle::memory_bound::MemoryBound;
use crate::server::options::ServerOptions;
use crate::telemetry::check_log_file;
use crate::tenants::entry::ClientsFile;
use crate::tenants::file_store::edit_file::dry_run_create;
use crate::tenants::file_store::load_clients;
use crate::{agent, server};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A server, agent or clients file
    file: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let runtime = runtime::single_threaded()?;
    let _here = runtime.enter();
    let looks =
        Looks { clients: &load_clients, clients_of: &clients_of, server: &server::check, agent: &look_at_agent };
    let checked = check(&args.file, &looks).map_err(with_advice)?;
    let green = Style::new().bold().fg_color(Some(AnsiColor::Green.into()));
    let yellow = Style::new().bold().fg_color(Some(AnsiColor::Yellow.into()));
    for warning in &checked.warnings {
        eprintln!("{yellow}warning:{yellow:#} {warning}");
    }
    if checked.kind == Kind::Server {
        println!("memory: {}", MemoryBound::of(&ServerOptions::load(Some(&args.file), &Flags::new())?));
        println!(
            "        a busy server takes a few per cent of that; lower limits.connections, limits.streams and \
             tunnel.max_tunnels to bound it (docs/capacity.md)"
        );
    }
    println!("{green}fine:{green:#} {} ({})", args.file.display(), checked.kind);
    Ok(())
}

/// One that the server would begin, and may, is as good as there.
fn clients_of(config: &ServerOptions, file: &Path) -> Result<ClientsFile, ConfigErrors> {
    match begins_clients(config, file) {
        true => dry_run_create(&config.clients).map(|()| ClientsFile::default()),
        false => load_clients(&config.clients),
    }
}

fn look_at_agent(config: &AgentOptions) -> Vec<Problem> {
    let log = check_log_file(&config.log).err();
    let log = log.map(|error| Problem { key: "log.file".to_owned(), message: error.to_string() });
    agent::check(config).into_iter().chain(log).collect()
}

/// What this user may not read, the user that the file is for may.
fn with_advice(mut errors: ConfigErrors) -> ConfigErrors {
    for problem in &mut errors.problems {
        // As the system says it (EACCES), whoever has put it into which words.
        if problem.message.contains("Permission denied") {
            problem.message.push_str("; the user who runs this check may not: run it as the user who is to run adit");
        }
    }
    errors
}
