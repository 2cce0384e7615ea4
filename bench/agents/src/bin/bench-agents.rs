//! `bench-agents FINGERPRINT PORT FIRST COUNT FILES APP`: many agents in one process, each logged in over TLS. Their token
//! comes from ADIT_TOKEN. They lead to the application on the port FILES, and with `/echo` to the one on the port APP.
//!
//! Agent number `i` is a tunnel of the client `c{i / 50}` and offers the name `c{i / 50}-{i % 50}`. Each client dials the
//! server at an address of its own, so that the server sees as many addresses (`bench/scale.py` says how). Whenever something
//! has changed, a line says how many are up, and how many of those for at least the second time; and why some are not.

use std::error::Error;
use std::io::Write as _;
use std::time::Duration;

use adit::agent::{Agent, State};
use adit::agent::options::AgentOptions;
use adit::schema::{Environment, Flags, ValueKind};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Tunnels of one client; the server allows 64.
const OF_A_CLIENT: usize = 50;

/// Addresses in the last part of an address.
const OF_A_NETWORK: usize = 250;

/// How often it is said what has changed.
const EVERY: Duration = Duration::from_millis(20);

const USAGE: &str = "usage: ADIT_TOKEN=… bench-agents FINGERPRINT PORT FIRST COUNT FILES APP";

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [fingerprint, port, first, count, files, app] = words.as_slice() else { return Err(USAGE.into()) };
    let (port, first, count): (u16, usize, usize) = (port.parse()?, first.parse()?, count.parse()?);
    rlimit::increase_nofile_limit(u64::MAX)?;
    let environment = Environment::of_process();
    let agents = (first..first + count)
        .map(|number| Ok(Agent::new(config(number, (port, fingerprint), (files, app), &environment)?)?))
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(agents))
}

fn config(
    number: usize,
    (port, fingerprint): (u16, &str),
    (files, app): (&str, &str),
    environment: &Environment,
) -> Result<AgentOptions, Box<dyn Error>> {
    let client = number / OF_A_CLIENT;
    let server = format!("10.78.{}.{}:{port}", client / OF_A_NETWORK, client % OF_A_NETWORK + 1);
    let client = format!("c{client}");
    let rule = [("path", "/echo"), ("local", app)].map(|(key, value)| (key.to_owned(), ValueKind::from(value)));
    let rule = std::collections::HashMap::from(rule);
    let service = std::collections::HashMap::from([
        ("name".to_owned(), ValueKind::from(format!("{client}-{}", number % OF_A_CLIENT))),
        ("local".to_owned(), ValueKind::from(files)),
        ("rules".to_owned(), ValueKind::from(vec![rule])),
    ]);
    let flags = Flags::new()
        .with("servers", vec![server])
        .with("client_id", client)
        .with("fingerprint", fingerprint)
        .with("services", vec![service]);
    Ok(AgentOptions::from_flags(environment, &flags)?)
}

/// Runs them until the process is ended.
async fn run(agents: Vec<Agent>) -> Result<(), Box<dyn Error>> {
    let tasks = TaskTracker::new();
    let mut states: Vec<_> = agents.iter().map(Agent::state).collect();
    let mut logins = vec![0_usize; agents.len()];
    for agent in agents {
        tasks.spawn(async move {
            if let Err(given_up) = agent.run(CancellationToken::new()).await {
                eprintln!("error: {given_up}");
            }
        });
    }
    let mut clock = tokio::time::interval(EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut up, mut said, mut complaint) = (vec![false; states.len()], String::new(), String::new());
    loop {
        clock.tick().await;
        for (number, state) in states.iter_mut().enumerate() {
            if state.has_changed().unwrap_or(false) {
                let now = state.borrow_and_update().clone();
                let is_up = matches!(now, State::Connected { .. });
                if let State::Waiting { why, .. } = now
                    && why != complaint
                {
                    eprintln!("{why}");
                    complaint = why;
                }
                logins[number] += usize::from(is_up && !up[number]);
                up[number] = is_up;
            }
        }
        let now_up = up.iter().filter(|up| **up).count();
        let again = up.iter().zip(&logins).filter(|(up, logins)| **up && **logins > 1).count();
        let line = format!("up {now_up} again {again}\n");
        if line != said {
            std::io::stdout().write_all(line.as_bytes())?;
            said = line;
        }
    }
}
