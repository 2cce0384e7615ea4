//! The command line: one file for each sub-command. The only module that knows both the server and the agent.

mod admin;
mod agent;
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
mod reload;
mod runtime;
mod server;
mod server_file;
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
    Server(server::Args),
    /// Run the home side from a configuration file, with any number of services
    Agent(agent::AgentArgs),
    /// Put one local web application on the internet
    Http(Box<agent::HttpArgs>),
    /// Put one local TCP port on the internet: SSH, a database, a game
    Tcp(Box<agent::TcpArgs>),
    /// Log in once, and keep it: `adit http` and the others then need no server, id or token
    Login(Box<login::LoginArgs>),
    /// Forget the login that was kept
    Logout,
    /// Make the hash of a password, for `basic_auth` of a service
    Password,
    /// Say who may log in: make and list clients, rotate and revoke their tokens, invite newcomers
    Token(token::Args),
    /// Show the server's certificates, and renew the one of its own making
    Cert(cert::Args),
    /// Check a configuration file and name every problem in it
    Check(check::Args),
    /// Show how a running server is, and who is connected
    Status(server_file::ServerFile),
    /// Ask a server on this machine whether it is ready: for health checks of containers and monitors
    Health(server_file::ServerFile),
    /// Show it working: server, agent and a small site in one process
    Demo(demo::Args),
    /// Print completions of the command line for a shell
    Completions(completions::Args),
    /// Print the version
    Version,
}

impl Cli {
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
