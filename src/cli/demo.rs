//! `adit demo`: everything in one process, to see it work before anything is set up.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::path::Path;

use anstream::println;
use anstyle::{AnsiColor, Style};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Failure, demo_site, runtime};
use crate::agent::options::AgentOptions;
use crate::agent::{Agent, State};
use crate::auth::{Token, hash};
use crate::schema::{Environment, Flags, ValueKind};
use crate::server::Server;
use crate::server::options::ServerOptions;
use crate::telemetry::options::LogOptions;
use crate::telemetry::{LastLines, start_agent_logs};
use crate::tenants::clients::Clients;
use crate::tenants::entry::ClientsFile;
use crate::transport::listen;

/// The demo's client, and so its public name.
const CLIENT: &str = "alice";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The public port; 0 takes any that is free
    #[arg(long, default_value_t = 9090)]
    port: u16,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let logs =
        start_agent_logs(&LogOptions::plain("warn"), std::io::stdout().is_terminal(), false).map_err(Failure::other)?;
    // Keys and tokens of the demo live as long as it does.
    let scratch = tempfile::tempdir().map_err(Failure::other)?;
    runtime::for_server()?.block_on(show(args.port, scratch.path(), logs.last_lines()))
}

async fn show(port: u16, scratch: &Path, log: LastLines) -> Result<(), Failure> {
    let tasks = TaskTracker::new();
    let stop = runtime::stop_on_signals(&tasks, log)?;
    let token = Token::generate().map_err(Failure::other)?;
    let server = start_server(port, scratch, &token)?;
    let public = server.public_address().map_err(Failure::other)?;
    let site = listen::bind(([127, 0, 0, 1], 0).into(), "the demo's site").map_err(Failure::other)?;
    let local = site.local_addr().map_err(Failure::other)?;
    let agent = start_agent(&server, local.port(), token)?;

    let server_stop = CancellationToken::new();
    let serving = tasks.spawn(server.run(server_stop.clone()));
    tasks.spawn(demo_site::serve(site, public.port(), tasks.clone(), server_stop.clone()));
    let mut state = agent.state();
    let announce = async {
        if state.wait_for(|state| matches!(state, State::Connected { .. })).await.is_ok() {
            print_urls(public.port());
        }
        std::future::pending::<()>().await;
    };
    let result = tokio::select! {
        result = agent.run(stop) => result.map_err(Failure::from),
        () = announce => Ok(()),
    };
    server_stop.cancel();
    serving.await.map_err(Failure::other)?;
    result
}

fn start_server(port: u16, scratch: &Path, token: &Token) -> Result<Server, Failure> {
    let flags = Flags::new()
        .with("tunnel.listen", "127.0.0.1:0")
        .with("public.http", format!("127.0.0.1:{port}"))
        .with("admin.listen", "off")
        .with("tunnel.drain_timeout", "1s")
        .with("tunnel.tls.dir", scratch.display().to_string());
    let config = ServerOptions::from_text(&scratch.join("server.toml"), "", &Environment::default(), &flags)?;
    let hashed = hash(token.as_secret()).map_err(Failure::other)?;
    let clients = format!("[clients.{CLIENT}]\ntoken_hash = \"{hashed}\"\n");
    let clients = ClientsFile::from_text(&scratch.join("clients.toml"), &clients)?;
    Ok(Server::bind(config, Clients::new(clients))?)
}

fn start_agent(server: &Server, local: u16, token: Token) -> Result<Agent, Failure> {
    let address = server.tunnel_address().map_err(Failure::other)?;
    let local = ValueKind::from(format!("127.0.0.1:{local}"));
    let service = HashMap::from([("local".to_owned(), local)]);
    let flags = Flags::new()
        .with("servers", vec![address.to_string()])
        .with("client_id", CLIENT)
        .with("token", token.as_secret().expose())
        .with("fingerprint", server.fingerprint().to_string())
        .with("services", vec![service]);
    Ok(Agent::new(AgentOptions::from_flags(&Environment::default(), &flags)?)?)
}

fn print_urls(port: u16) {
    let green = Style::new().bold().fg_color(Some(AnsiColor::Green.into()));
    let bold = Style::new().bold();
    println!("{green}The tunnel is up.{green:#} Open this in a browser:\n");
    println!("  {bold}http://{CLIENT}.localhost:{port}/{bold:#}\n");
    println!("or try, in another terminal:\n");
    println!("  curl http://{CLIENT}.localhost:{port}/");
    println!("  curl http://127.0.0.1:{port}/{CLIENT}/");
    println!("  curl -H 'X-Tunnel-ID: {CLIENT}' http://127.0.0.1:{port}/");
    println!("  curl http://127.0.0.1:{port}/health\n");
    println!("Ctrl-C ends it.");
}
