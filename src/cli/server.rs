//! `adit server`

mod advice;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anstream::println;
use anstyle::Style;
use tokio_util::task::TaskTracker;

use super::runtime::Hangups;
use super::{Failure, manager, runtime};
use crate::auth::{Clients, load_clients};
use crate::config::{DEFAULT_SERVER_FILE, Flags, ServerConfig, open_admin_warning, shared_origin_warning};
use crate::server::Server;
use crate::server::certificate::Origin;
use crate::telemetry::start_logs;
use crate::transport::inherited::Inherited;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file [default: config/server.toml, if it is there]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override one setting, e.g. `--set public.domain=tunnel.example.com`
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
}

/// Splits `KEY=VALUE`.
pub(super) fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE, e.g. public.domain=tunnel.example.com".to_owned()),
    }
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    // Before there are threads.
    let (mut inherited, strange) = Inherited::of_process();
    let flags = args.settings.into_iter().fold(Flags::new(), |flags, (key, value)| flags.with(&key, value));
    // A file that was there is not done without when everything is read again.
    let usual = || Some(PathBuf::from(DEFAULT_SERVER_FILE)).filter(|path| path.exists());
    let file = args.config.or_else(usual);
    let config = ServerConfig::load(file.as_deref(), &flags)?;
    let clients = load_clients(&config.clients)?;
    let logs = start_logs(&config.log).map_err(Failure::other)?;
    for warning in [shared_origin_warning(&config, &clients), open_admin_warning(&config)].into_iter().flatten() {
        tracing::warn!("{warning}");
    }
    strange.iter().for_each(|message| tracing::warn!("{message}"));
    if clients.clients.is_empty() {
        let file = config.clients.display();
        tracing::warn!("no client may log in yet: make a token with `adit token new ID --clients {file}`");
    }
    let files = runtime::raise_file_limit();
    if let Some(advice) = advice::System::look(files).advice(&config) {
        tracing::warn!("{advice}");
    }
    runtime::for_server()?.block_on(async {
        let (domain, token_file) = (config.public.domain.clone(), config.admin.token_file.clone());
        let server = Server::bind_with(config, Clients::new(clients), &mut inherited)?.with_log(logs.level());
        for address in inherited.left() {
            tracing::warn!("the service manager listens on {address}, which is nobody's port in the configuration");
        }
        // Nobody would ever take what waits in them.
        drop(inherited);
        let tasks = TaskTracker::new();
        // Before anybody is told that it runs: whoever reads that may send a signal at once.
        let stop = runtime::stop_on_signals(&tasks)?;
        let mut hangups = Hangups::new()?;
        print_start(&server, &domain, &token_file)?;
        manager::keep_awake(&tasks);
        let reloader = server.reloader();
        let stopped = stop.clone();
        tasks.spawn(async move {
            while stopped.run_until_cancelled(hangups.next()).await.is_some() {
                tracing::info!("SIGHUP: reading the configuration, the clients file and the certificates again");
                manager::reloading();
                let (path, flags) = (file.clone(), flags.clone());
                // What has come of it is in the log.
                let _ = reloader.reload(move || ServerConfig::load(path.as_deref(), &flags)).await;
                manager::ready();
            }
        });
        manager::ready();
        manager::run_until(stop.clone(), server.run(stop)).await;
        Ok(())
    })
}

fn print_start(server: &Server, domain: &str, token_file: &Path) -> Result<(), Failure> {
    let bold = Style::new().bold();
    let tunnel = server.tunnel_address().map_err(Failure::other)?;
    let public = server.public_address().map_err(Failure::other)?;
    let certificate = server.certificate();
    let origin = match certificate.origin {
        Origin::Own => "your own",
        Origin::Made => "made just now, with a new authority",
        Origin::Renewed => "renewed just now; agents need nothing new",
        Origin::Kept => "made at an earlier start",
    };
    println!("{bold}adit server{bold:#} {}", env!("CARGO_PKG_VERSION"));
    println!("  agents dial   {tunnel}");
    println!("  visitors      {}", visitor_url(("http", 80), domain, public));
    if let Some(https) = server.https_address().map_err(Failure::other)? {
        println!("                {}", visitor_url(("https", 443), domain, https));
    }
    if let Some(admin) = server.admin_address().map_err(Failure::other)? {
        println!("  admin         http://{admin}/ (token: {})", token_file.display());
    }
    println!("  certificate   {origin}, for {}", certificate.names.join(", "));
    println!("  fingerprint   {bold}{}{bold:#}", server.fingerprint());
    println!("  at home       adit http 3000 --server {domain}:{} --id ID --token TOKEN \\", tunnel.port());
    println!("                  --fingerprint {}", server.fingerprint());
    Ok(())
}

fn visitor_url((scheme, own_port): (&str, u16), domain: &str, listens: SocketAddr) -> String {
    match listens.port() {
        port if port == own_port => format!("{scheme}://NAME.{domain}/"),
        port => format!("{scheme}://NAME.{domain}:{port}/"),
    }
}
