//! What would keep a server from starting, found without one.

use std::path::Path;

use super::certificate;
use super::settings::Settings;
use crate::auth::{AdminToken, TicketKey};
use crate::certs::authority_fingerprint;
use crate::schema::Problem;
use crate::server::options::ServerOptions;
use crate::telemetry::check_log_file;

/// The key that signs tickets, in `tunnel.tls.dir`.
pub(crate) const TICKET_KEY: &str = "ticket.key";

/// Everything in the files that `config` names, but for the clients file, that [`Server::bind`](crate::server::Server::bind)
/// would stumble over: by key path, all at once. Opens no port and makes no file; what is not there yet and would be made
/// at the start is no problem. Blocks on files. Must be called on a tokio runtime.
pub fn check(config: &ServerOptions) -> Vec<Problem> {
    let mut problems = certificate::check_all(config);
    let mut add = |key: &str, error: Option<String>| {
        // A folder may be in the way of several files.
        let error = error.filter(|message| problems.iter().all(|problem: &Problem| problem.message != *message));
        problems.extend(error.map(|message| Problem { key: key.to_owned(), message }));
    };
    let ticket_key = config.tunnel.tls.dir.join(TICKET_KEY);
    add("tunnel.tls.dir", TicketKey::check(&ticket_key).err().map(|error| error.to_string()));
    if config.admin.listen.is_some() {
        add("admin.token_file", look_at_token(&config.admin.token_file));
    }
    add("log.file", check_log_file(&config.log).err().map(|error| error.to_string()));
    add("public.domain_proof", Settings::new(config.clone(), None).err());
    problems
}

/// Whether a server with this configuration, from `file`, creates its clients file: on the first start, in its usual place.
/// Later, or in another place, a file that is missing was more likely lost, or is mistyped.
pub fn creates_clients_file(config: &ServerOptions, file: &Path) -> bool {
    let tls = &config.tunnel.tls;
    let is_first_start = || tls.own.is_none() && matches!(authority_fingerprint(&tls.dir), Ok(None));
    config.clients == file.with_file_name("clients.toml") && !config.clients.exists() && is_first_start()
}

fn look_at_token(file: &Path) -> Option<String> {
    AdminToken::check(file).err().map(|error| error.to_string())
}
