//! `adit status`: the health of a running server, and its connected agents.

use std::io::{self, Write as _};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;

use super::Failure;
use super::admin::{AdminPort, Health, Tunnel};
use super::server_file::{SYSTEM_SERVER_FILE, ServerFile};
use super::table::{Cell, table};
use crate::server::options::DEFAULT_SERVER_FILE;
use crate::values::harmless_line;

pub(super) fn run(file: ServerFile) -> Result<(), Failure> {
    let has_file = file.file().is_some();
    let config = file.load()?;
    let elsewhere = |failure: Failure| if has_file { failure } else { with_place(&failure) };
    let port = AdminPort::of(&config).map_err(elsewhere)?;
    let mut server = port.connect().map_err(elsewhere)?;
    let (health, tunnels) = (server.health()?, server.tunnels()?);
    let text = text_of(&health, &tunnels, &port.address().to_string(), Timestamp::now());
    match anstream::stdout().lock().write_all(text.as_bytes()) {
        // The reader has closed the pipe.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::other(error)),
        _ => Ok(()),
    }
}

/// Adds where to run the command: without a configuration file this may not be the server's machine.
fn with_place(failure: &Failure) -> Failure {
    Failure::Other(format!(
        "there is no server to ask here: this folder has no {DEFAULT_SERVER_FILE}, and there is no {SYSTEM_SERVER_FILE}\n  \
         run this on the server, in the folder it was started in, or with its --config FILE; an agent says itself how it \
         is doing\n  {failure}"
    ))
}

const HEADER: [&str; 7] = ["CLIENT", "SERVICES", "OPEN", "STATE", "SINCE", "FROM", "AGENT"];

fn text_of(health: &Health, tunnels: &[Tunnel], admin: &str, now: Timestamp) -> String {
    let bold = Style::new().bold();
    let coloured = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
    let is_well = health.problems.is_empty();
    let style = coloured(if is_well { AnsiColor::Green } else { AnsiColor::Red });
    let up = humantime::format_duration(Duration::from_secs(health.uptime_s));
    let since = Timestamp::from_second(now.as_second().saturating_sub_unsigned(health.uptime_s)).unwrap_or(now);
    let mut text = format!(
        "{bold}adit server{bold:#} {}, asked at {admin}\n  \
           up since      {since} ({up})\n  \
           health        {style}{}{style:#}\n  \
           tunnels       {}\n  \
           clients       {} in the clients file\n",
        harmless_line(&health.version),
        harmless_line(&health.status),
        health.tunnels,
        health.clients
    );
    for problem in &health.problems {
        text.push_str(&format!("  {style}problem{style:#}       {}\n", one_line(problem)));
    }
    text.push('\n');
    if tunnels.is_empty() {
        text.push_str("No agent is connected.\n");
        return text;
    }
    let mut tunnels: Vec<_> = tunnels.iter().collect();
    tunnels.sort_by(|one, other| (&one.client, &one.since).cmp(&(&other.client, &other.since)));
    let rows: Vec<Vec<Cell>> = tunnels.into_iter().map(row).collect();
    text.push_str(&table(&HEADER, &rows));
    text
}

fn row(tunnel: &Tunnel) -> Vec<Cell> {
    let colour = if tunnel.state == "serving" { AnsiColor::Green } else { AnsiColor::Yellow };
    let since = tunnel.since.parse().ok().and_then(|since: Timestamp| Timestamp::from_second(since.as_second()).ok());
    let services = if tunnel.services.is_empty() { "-".to_owned() } else { tunnel.services.join(",") };
    vec![
        Cell { text: one_line(&tunnel.client), style: Style::new().bold() },
        Cell::plain(one_line(&services)),
        Cell::plain(tunnel.streams.to_string()),
        Cell { text: one_line(&tunnel.state.replace('_', " ")), style: Style::new().fg_color(Some(colour.into())) },
        Cell::plain(since.map_or_else(|| one_line(&tunnel.since), |since| since.to_string())),
        Cell::plain(one_line(&tunnel.peer)),
        // The agent's own description.
        Cell::plain(one_line(&tunnel.agent)),
    ]
}

fn one_line(text: &str) -> String {
    harmless_line(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(problems: &[&str]) -> Health {
        Health {
            status: if problems.is_empty() { "ok" } else { "degraded" }.to_owned(),
            version: "1.2.3".to_owned(),
            uptime_s: 3_600,
            tunnels: 2,
            clients: 3,
            problems: problems.iter().map(ToString::to_string).collect(),
        }
    }

    fn tunnel(client: &str, services: &[&str], state: &str) -> Tunnel {
        Tunnel {
            client: client.to_owned(),
            agent: "adit 1.2.3 (linux)\x1b[2J".to_owned(),
            peer: "192.0.2.1:5555".to_owned(),
            since: "2026-01-01T00:00:00.123Z".to_owned(),
            state: state.to_owned(),
            services: services.iter().map(ToString::to_string).collect(),
            streams: 7,
        }
    }

    fn plain(health: &Health, tunnels: &[Tunnel]) -> String {
        let now = "2026-01-01T02:00:00Z".parse().unwrap();
        let text = text_of(health, tunnels, "127.0.0.1:9091", now);
        assert!(!text.contains("\x1b[2J"), "{text:?}");
        anstream::adapter::strip_str(&text).to_string()
    }

    #[test]
    fn all_that_the_operator_wants_to_know_is_on_one_page() {
        let tunnels = [tunnel("bob", &["bob"], "came_back"), tunnel("alice", &["alice", "blog"], "serving")];
        assert_eq!(
            plain(&health(&[]), &tunnels),
            "adit server 1.2.3, asked at 127.0.0.1:9091\n  \
               up since      2026-01-01T01:00:00Z (1h)\n  \
               health        ok\n  \
               tunnels       2\n  \
               clients       3 in the clients file\n\n\
             CLIENT  SERVICES    OPEN  STATE      SINCE                 FROM            AGENT\n\
             alice   alice,blog  7     serving    2026-01-01T00:00:00Z  192.0.2.1:5555  adit 1.2.3 (linux)[2J\n\
             bob     bob         7     came back  2026-01-01T00:00:00Z  192.0.2.1:5555  adit 1.2.3 (linux)[2J\n"
        );
    }

    #[test]
    fn problems_stand_above_and_nobody_is_said_in_words() {
        let text = plain(&health(&["clients.toml: clients.bob: is wrong"]), &[]);
        assert!(
            text.contains("degraded") && text.contains("problem       clients.toml: clients.bob: is wrong"),
            "{text}"
        );
        assert!(text.ends_with("\n\nNo agent is connected.\n"), "{text}");
    }
}
