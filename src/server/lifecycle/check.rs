//! Checks whether a server could start, without starting one.

use std::path::Path;

use super::certificate;
use crate::auth::{AdminToken, TicketKey};
use crate::certs::authority_fingerprint;
use crate::schema::Problem;
use crate::server::options::ServerOptions;
use crate::server::settings::Settings;
use crate::telemetry::check_log_file;

/// The key that signs tickets, in `tunnel.tls.dir`.
pub(crate) const TICKET_KEY: &str = "ticket.key";

/// Returns everything that [`Server::bind`](crate::server::Server::bind) would fail with in the files that `config` names,
/// except the clients file, by configuration key. Opens no port and creates no file; a missing file that the start would
/// create is no problem. Blocks on files. Must be called on a tokio runtime.
pub fn check(config: &ServerOptions) -> Vec<Problem> {
    let mut problems = certificate::check_all(config);
    let mut add = |key: &str, error: Option<String>| {
        // Several files may fail because of one directory: its message appears once.
        let error = error.filter(|message| problems.iter().all(|problem: &Problem| problem.message != *message));
        problems.extend(error.map(|message| Problem { key: key.to_owned(), message }));
    };
    let ticket_key = config.tunnel.tls.dir.join(TICKET_KEY);
    add("tunnel.tls.dir", TicketKey::check(&ticket_key).err().map(|error| error.to_string()));
    if config.admin.listen.is_some() {
        add("admin.token_file", check_admin_token(&config.admin.token_file));
    }
    add("log.file", check_log_file(&config.log).err().map(|error| error.to_string()));
    add("public.domain_proof", Settings::new(config.clone(), None).err().map(|error| error.to_string()));
    problems
}

/// Returns whether a server with this configuration, from `file`, creates its clients file: on the first start, in its
/// default place. Later, or in another place, a missing file was more likely lost, or its path is wrong.
pub fn creates_clients_file(config: &ServerOptions, file: &Path) -> bool {
    let tls = &config.tunnel.tls;
    let is_first_start = || tls.own.is_none() && matches!(authority_fingerprint(&tls.dir), Ok(None));
    config.clients == file.with_file_name("clients.toml") && !config.clients.exists() && is_first_start()
}

fn check_admin_token(file: &Path) -> Option<String> {
    AdminToken::check(file).err().map(|error| error.to_string())
}
