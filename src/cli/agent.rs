//! `adit agent` and `adit http`: the same agent, from a file or from flags.

use std::convert::Infallible;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use anstream::println;
use tokio_util::task::TaskTracker;

use super::agent_reload::AgentFile;
use super::agent_status::show_status;
use super::flags::{AddressArgs, Keys, Users, VisitorArgs, in_flags};
use super::login::look_again;
use super::server_file::{flags, setting};
use super::sighup::Hangups;
use super::{Failure, manager, runtime, terminal};
use crate::agent::options::AgentOptions;
use crate::agent::{Agent, GivenUp, ServiceChanges, probe_applications};
use crate::protocol::login::Refusal;
use crate::schema::Flags;
use crate::telemetry::start_agent_logs;

#[derive(Debug, clap::Args)]
pub(super) struct AgentArgs {
    /// The configuration file [default: config/agent.toml]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override one setting, e.g. `--set client_id=alice`
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    #[command(flatten)]
    replaced: ReplacedArgs,
    /// Say more: all addresses, and a line for each request; twice for everything
    #[arg(long, short, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, clap::Args)]
struct ReplacedArgs {
    /// Exit with code 77, instead of standing by, when an agent that was started later has all the names
    #[arg(long)]
    exit_when_replaced: bool,
}

impl ReplacedArgs {
    fn put(&self, flags: Flags) -> Flags {
        // Without the flag, the value in the file applies.
        if self.exit_when_replaced { flags.with("exit_when_replaced", true) } else { flags }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct HttpArgs {
    /// Where the application listens: a port, HOST:PORT, http://…, https://…, h2c://… (gRPC) or unix:/path.sock
    #[arg(value_name = "PORT|URL")]
    local: String,
    /// The Host header the application sees: `preserve`, `local` or a name of its own
    #[arg(long, value_name = "VALUE")]
    host_header: Option<String>,
    /// Take any certificate of a local https:// application
    #[arg(long)]
    insecure_skip_verify: bool,
    #[command(flatten)]
    visitors: VisitorArgs,
    #[command(flatten)]
    login: LoginArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct TcpArgs {
    /// Where the application listens: a port, HOST:PORT or unix:/path.sock
    #[arg(value_name = "PORT|ADDR")]
    local: String,
    /// The public port [default: the first that the client may have]
    #[arg(long, value_name = "PORT")]
    remote_port: Option<u16>,
    #[command(flatten)]
    visitors: AddressArgs,
    #[command(flatten)]
    login: LoginArgs,
}

/// Who logs in, and where.
#[derive(Debug, clap::Args)]
struct LoginArgs {
    /// The server's tunnel address; several are tried in order [default: that of `adit login`]
    #[arg(long, value_name = "HOST:PORT")]
    server: Vec<String>,
    /// The client id that the token belongs to [default: that of `adit login`]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The token; ADIT_TOKEN in the environment keeps it out of the shell's history
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// The public name [default: the client id]
    #[arg(long, value_name = "NAME", visible_alias = "subdomain")]
    name: Option<String>,
    /// Trust this CA file (the server's certs/ca.pem)
    #[arg(long, value_name = "FILE", conflicts_with = "fingerprint")]
    ca: Option<PathBuf>,
    /// Trust the server with this fingerprint, as it prints it when it starts
    #[arg(long, value_name = "sha256:…")]
    fingerprint: Option<String>,
    #[command(flatten)]
    replaced: ReplacedArgs,
    /// Say more: a line for each request; twice for everything
    #[arg(long, short, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// Returns the log level for this many `-v`.
fn level(verbose: u8) -> &'static str {
    match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    }
}

pub(super) fn run_agent(args: AgentArgs) -> Result<(), Failure> {
    let flags = args.replaced.put(flags(args.settings));
    // Without the flag, the level in the file applies.
    let flags = if args.verbose == 0 { flags } else { flags.with("log.level", level(args.verbose)) };
    let file = AgentFile::new(args.config, flags);
    let config = if manager::waits_for_outcome() { file.read()? } else { file.read_awaiting_token()? };
    run(config, Some(file))
}

pub(super) fn run_http(args: HttpArgs) -> Result<(), Failure> {
    let mut service = one_service("http", args.local);
    service.extend(args.host_header.map(|value| ("host_header".to_owned(), value.into())));
    if args.insecure_skip_verify {
        service.insert("insecure_skip_verify".to_owned(), true.into());
    }
    let (access, users) = args.visitors.split()?;
    run_one(service, "PORT|URL", args.login, access, users)
}

pub(super) fn run_tcp(args: TcpArgs) -> Result<(), Failure> {
    let mut service = one_service("tcp", args.local);
    service.extend(args.remote_port.map(|port| ("remote_port".to_owned(), i64::from(port).into())));
    run_one(service, "PORT|ADDR", args.login, args.visitors.keys(), Users::default())
}

fn one_service(kind: &str, local: String) -> Keys {
    Keys::from([("kind".to_owned(), kind.into()), ("local".to_owned(), local.into())])
}

/// Runs an agent with one service; `local` is the name of the argument that says where it leads.
fn run_one(mut service: Keys, local: &str, login: LoginArgs, access: Keys, users: Users) -> Result<(), Failure> {
    service.extend(login.name.map(|name| ("name".to_owned(), name.into())));
    let flags = Flags::new()
        .with("log.level", level(login.verbose))
        .with_some("client_id", login.id)
        .with_some("token", login.token)
        .with_some("ca", login.ca.map(|path| path.display().to_string()))
        .with_some("fingerprint", login.fingerprint);
    let mut flags = login.replaced.put(flags);
    if !login.server.is_empty() {
        flags = flags.with("servers", login.server);
    }
    let config = |access: Keys| {
        let mut service = service.clone();
        service.insert("access".to_owned(), access.into());
        let flags = flags.clone().with("services", vec![service]);
        AgentOptions::from_command_line(&flags).map_err(|errors| in_flags(errors, local))
    };
    // Nobody types a password only to hear that something else is wrong.
    config(users.unasked(&access))?;
    run(config(users.asked(&access)?)?, None)
}

/// Runs an agent to its end, and reloads `file` when it changes.
fn run(config: AgentOptions, file: Option<AgentFile>) -> Result<(), Failure> {
    let logs = start_agent_logs(&config.log, std::io::stdout().is_terminal(), terminal::is_output_kept())
        .map_err(Failure::other)?;
    runtime::raise_file_limit();
    runtime::single_threaded()?.block_on(async {
        let client = config.client_id.clone();
        let token = config.token.clone();
        let is_verbose = !matches!(config.log.level.as_str(), "error" | "warn");
        let agent = Agent::new(config.clone())?;
        let agent = if manager::waits_for_outcome() { agent.exiting_if_refused() } else { agent };
        let tasks = TaskTracker::new();
        let stop = runtime::stop_on_signals(&tasks, logs.last_lines())?;
        // Before the service manager is told that the agent runs: it may send a signal immediately. Without a file, SIGHUP
        // ends the agent.
        let file = file.map(|file| Hangups::new().map(|hangups| (file, hangups))).transpose()?;
        manager::keep_awake(&tasks);
        manager::ready();
        let services = config.services.clone();
        tasks.spawn(async move { probe_applications(&services).await });
        let status = tasks.spawn(show_status(agent.state(), client, is_verbose));
        let following = follow(file, config, agent.changes());
        let result = tokio::select! {
            result = manager::run_until(stop.clone(), agent.run(stop)) => result.map_err(Failure::from),
            never = following => match never {},
        };
        // It ends with the agent, after it has printed everything.
        drop(agent);
        let _ = status.await;
        if let Err(Failure::GivenUp(GivenUp::Refused { code: Refusal::BadToken, .. })) = &result {
            look_again(&token);
        }
        result?;
        println!("stopped");
        Ok(())
    })
}

/// Never ends.
async fn follow(file: Option<(AgentFile, Hangups)>, started: AgentOptions, changes: ServiceChanges) -> Infallible {
    match file {
        Some((file, hangups)) => file.follow(hangups, started, changes).await,
        None => std::future::pending().await,
    }
}
