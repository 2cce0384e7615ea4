//! `adit server`

mod advice;
mod invitation;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anstream::print;
use anstyle::Style;
use jiff::Timestamp;
use tokio_util::task::TaskTracker;

use super::server_file::{flags, setting};
use super::sighup::Hangups;
use super::{Failure, manager, runtime};
use crate::server::Server;
use crate::server::creates_clients_file;
use crate::server::lifecycle::certificate::Origin;
use crate::server::options::{
    DEFAULT_SERVER_FILE, PublicOptions, ServerOptions, open_admin_warning, shared_origin_warning,
};
use crate::telemetry::start_logs;
use crate::tenants::clients::Clients;
use crate::tenants::entry::ClientsFile;
use crate::tenants::file_store::edit_file::create_clients_file;
use crate::tenants::file_store::{FileStore, load_clients};
use crate::transport::inherited::Inherited;
use invitation::Unsaid;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file [default: config/server.toml, if it is there]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override one setting, e.g. `--set public.domain=tunnel.example.com`
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    // Before there are threads.
    let (mut inherited, strange) = Inherited::of_process();
    let flags = flags(args.settings);
    // A file that was there is not done without when everything is read again.
    let usual = || Some(PathBuf::from(DEFAULT_SERVER_FILE)).filter(|path| path.exists());
    let file = args.config.or_else(usual);
    let config = ServerOptions::load(file.as_deref(), &flags)?;
    let clients = clients_of(&config, file.as_deref())?;
    let logs = start_logs(&config.log).map_err(Failure::other)?;
    // They come after what the server says of itself, each in one line.
    let mut warnings: Vec<_> =
        [shared_origin_warning(&config, &clients), open_admin_warning(&config)].into_iter().flatten().collect();
    warnings.extend(strange);
    let invites = clients.clients.is_empty().then(|| waiting_invites(&clients));
    let unsaid = Unsaid::of(&config, file.as_deref());
    warnings.extend(advice::System::look(runtime::raise_file_limit()).advice(&config));
    runtime::for_server()?.block_on(async {
        let (public, token_file) = (config.public.clone(), config.admin.token_file.clone());
        let store = FileStore::new(config.clients.clone(), Arc::new(Clients::new(clients)));
        let server = Server::bind_with(config, Arc::new(store), &mut inherited)?.with_log(logs.level(), logs.state());
        let left = inherited.left().into_iter();
        warnings.extend(left.map(|address| {
            format!("the service manager listens on {address}, which is nobody's port in the configuration")
        }));
        // Nobody would ever take what waits in them.
        drop(inherited);
        let tasks = TaskTracker::new();
        // Before anybody is told that it runs: whoever reads that may send a signal at once.
        let stop = runtime::stop_on_signals(&tasks, logs.last_lines())?;
        let mut hangups = Hangups::new()?;
        let invite = unsaid.invite_command(server.fingerprint());
        warnings.extend(invites.map(|invites| nobody_yet(invites, &invite)));
        print!("{}", banner(&server, &public, &token_file, &invite).map_err(Failure::other)?);
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        manager::keep_awake(&tasks);
        let reloader = server.reloader();
        let stopped = stop.clone();
        tasks.spawn(async move {
            while stopped.run_until_cancelled(hangups.next()).await.is_some() {
                tracing::info!("SIGHUP: reading the configuration, the clients file and the certificates again");
                manager::reloading();
                let (path, flags) = (file.clone(), flags.clone());
                // What has come of it is in the log.
                let _ = reloader.reload(move || ServerOptions::load(path.as_deref(), &flags)).await;
                manager::ready();
            }
        });
        manager::ready();
        manager::run_until(stop.clone(), server.run(stop)).await;
        Ok(())
    })
}

/// Who may log in. At the very first start the clients file is begun.
fn clients_of(config: &ServerOptions, file: Option<&Path>) -> Result<ClientsFile, Failure> {
    if creates_clients_file(config, file.unwrap_or(Path::new(DEFAULT_SERVER_FILE))) {
        create_clients_file(&config.clients)?;
    }
    Ok(load_clients(&config.clients)?)
}

/// Invitations that can still be used.
fn waiting_invites(clients: &ClientsFile) -> usize {
    let now = Timestamp::now();
    clients.invites.values().filter(|invite| !invite.has_expired(now)).count()
}

/// A line for the log of a server without clients. Another invitation for the same one would end a code that was given out.
fn nobody_yet(invites: usize, command: &str) -> String {
    match invites {
        0 => format!("no client may log in yet: invite one with `{command}`"),
        1 => "no client may log in yet: 1 invitation waits to be used".to_owned(),
        more => format!("no client may log in yet: {more} invitations wait to be used"),
    }
}

/// What the server says of itself when it starts.
fn banner(server: &Server, public: &PublicOptions, token_file: &Path, invite: &str) -> io::Result<String> {
    let bold = Style::new().bold();
    let tunnel = server.tunnel_address()?;
    let certificate = server.certificate();
    let (origin, note) = match certificate.origin {
        Origin::Operator => ("your own", ""),
        Origin::Created => ("made just now, with a new authority", ""),
        Origin::Renewed => ("renewed just now", "; agents need nothing new"),
        Origin::Stored => ("made earlier", ""),
    };
    let mut text = format!("{bold}adit server{bold:#} {}\n", env!("CARGO_PKG_VERSION"));
    let mut line = |label: &str, words: &str| text.push_str(&format!("  {label:<13} {words}\n"));
    line("agents dial", &tunnel.to_string());
    for (label, words) in ["visitors", ""].into_iter().zip(visitors(server, public)?) {
        line(label, &words);
    }
    if let Some(admin) = server.admin_address()? {
        line("admin", &format!("http://{admin}/ (token: {})", token_file.display()));
    }
    line("certificate", &format!("{origin}, for {}{note}", certificate.names.join(", ")));
    line("fingerprint", &format!("{bold}{}{bold:#}", server.fingerprint()));
    line("to invite", invite);
    line("at home", &format!("adit login {}:{} --invite CODE", public.domain, tunnel.port()));
    Ok(text)
}

/// Where visitors go: what stands in front, and otherwise the listeners.
fn visitors(server: &Server, public: &PublicOptions) -> io::Result<Vec<String>> {
    let http = server.public_address()?;
    let https = server.https_address()?;
    if let Some(url) = &public.url {
        let listens = https.map(|https| format!(", https on {https}")).unwrap_or_default();
        let behind = format!("(public.url; behind it http on {http}{listens})");
        return Ok(vec![url.replace("{name}", "NAME"), behind]);
    }
    let https = https.map(|https| visitor_url("https", 443, &public.domain, https));
    Ok(std::iter::once(visitor_url("http", 80, &public.domain, http)).chain(https).collect())
}

fn visitor_url(scheme: &str, own_port: u16, domain: &str, listens: SocketAddr) -> String {
    match listens.port() {
        port if port == own_port => format!("{scheme}://NAME.{domain}/"),
        port => format!("{scheme}://NAME.{domain}:{port}/"),
    }
}
