//! The command line: one file for each sub-command. The only module that knows both the server and the agent.

mod admin;
mod agent;
mod agent_reload;
mod agent_status;
mod cert;
mod check;
mod completions;
mod demo;
mod demo_site;
mod failure;
mod flags;
mod health;
mod http;
mod login;
mod manager;
mod password;
mod runtime;
mod server;
mod server_file;
mod sighup;
mod spelling;
mod status;
mod table;
mod terminal;
mod token;

use anstream::println;
use clap::{Parser, Subcommand};

pub use failure::Failure;

/// Reach a home server from the internet, through one outgoing TLS connection.
#[derive(Debug, Parser)]
#[command(name = "adit", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the public side, on a machine that visitors can reach
    #[command(
        after_help = "Examples:\n  adit server\n  adit server --config /etc/adit/server.toml\n  adit server --set public.domain=tunnel.example.com"
    )]
    Server(server::Args),
    /// Run the home side from a configuration file, with any number of services
    #[command(after_help = "Examples:\n  adit agent --config agent.toml\n  adit agent --set client_id=alice")]
    Agent(agent::AgentArgs),
    /// Put one local web application on the internet
    #[command(
        after_help = "Examples:\n  adit http 3000\n  adit http 3000 --name blog --basic-auth ann\n  adit http https://nas.local:5001 --insecure-skip-verify"
    )]
    Http(Box<agent::HttpArgs>),
    /// Put one local TCP port on the internet: SSH, a database, a game
    #[command(after_help = "Examples:\n  adit tcp 22\n  adit tcp 192.168.1.5:25565 --remote-port 25565")]
    Tcp(Box<agent::TcpArgs>),
    /// Log in once, and keep it: `adit http` and the others then need no server, id or token
    #[command(
        after_help = "Examples:\n  adit login tunnel.example.com:8080 --invite CODE\n  adit login tunnel.example.com:8080 --id alice"
    )]
    Login(Box<login::LoginArgs>),
    /// Forget the login that was kept
    #[command(after_help = "Examples:\n  adit logout")]
    Logout,
    /// Make the hash of a password, for `basic_auth` of a service
    #[command(after_help = "Examples:\n  adit password\n  printf %s SECRET | adit password")]
    Password,
    /// Say who may log in: make and list clients, rotate and revoke their tokens, invite newcomers
    #[command(
        after_help = "Examples:\n  adit token invite alice\n  adit token list\n  adit token set alice --names +blog\n  adit token rotate alice --overlap 1h\n  adit token revoke alice"
    )]
    Token(token::Args),
    /// Show the server's certificates, and renew the one of its own making
    #[command(after_help = "Examples:\n  adit cert\n  adit cert renew --config /etc/adit/server.toml")]
    Cert(cert::Args),
    /// Check a configuration file and name every problem in it
    #[command(after_help = "Examples:\n  adit check config/server.toml\n  adit check agent.toml")]
    Check(check::Args),
    /// Show how a running server is, and who is connected
    #[command(after_help = "Examples:\n  adit status\n  adit status --config /etc/adit/server.toml")]
    Status(server_file::ServerFile),
    /// Ask a server on this machine whether it is ready: for health checks of containers and monitors
    #[command(after_help = "Examples:\n  adit health\n  adit health --config /etc/adit/server.toml")]
    Health(server_file::ServerFile),
    /// Show it working: server, agent and a small site in one process
    #[command(after_help = "Examples:\n  adit demo\n  adit demo --port 8000")]
    Demo(demo::Args),
    /// Print completions of the command line for a shell
    #[command(after_help = "Examples:\n  adit completions bash > /etc/bash_completion.d/adit")]
    Completions(completions::Args),
    /// Print the version
    Version,
}

impl Cli {
    /// Parses the command line of this process. Exits with a message if that is wrong, or asks for help.
    #[must_use]
    pub fn from_command_line() -> Self {
        Self::try_parse().unwrap_or_else(|error| spelling::suggest(error, std::env::args_os().nth(1)).exit())
    }

    /// Runs the sub-command to its end.
    ///
    /// # Errors
    /// What went wrong, with its exit code.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Server(args) => server::run(args),
            Command::Agent(args) => agent::run_agent(args),
            Command::Http(args) => agent::run_http(*args),
            Command::Tcp(args) => agent::run_tcp(*args),
            Command::Login(args) => login::run(*args),
            Command::Logout => login::log_out(),
            Command::Password => password::run(),
            Command::Token(args) => token::run(args),
            Command::Cert(args) => cert::run(args),
            Command::Check(args) => check::run(&args),
            Command::Status(args) => status::run(args),
            Command::Health(args) => health::run(args),
            Command::Demo(args) => demo::run(args),
            Command::Completions(args) => completions::run(&args),
            Command::Version => {
                println!("adit {}", env!("CARGO_PKG_VERSION"));
                Ok(())
            }
        }
    }
}
