//! What a self-hoster sees of a running agent: where it can be reached, and what keeps it from that.

use anstream::println;
use anstyle::{AnsiColor, Style};
use tokio::sync::watch;

use crate::agent::State;
use crate::config::Service;
use crate::values::ClientId;

/// Prints each change of state until the agent has ended.
pub(super) async fn show_status(mut state: watch::Receiver<State>, client: ClientId, services: Vec<Service>) {
    let mut shown = None;
    loop {
        let now = state.borrow_and_update().clone();
        if shown.as_ref().is_none_or(|shown| is_news(shown, &now)) {
            show(&now, &client, &services);
        }
        if now == State::Ended {
            return;
        }
        shown = Some(now);
        if state.changed().await.is_err() {
            return;
        }
    }
}

/// Whether a person wants to hear of it: another lane, or the next attempt with the same result, is none.
fn is_news(before: &State, now: &State) -> bool {
    match (before, now) {
        (State::Connected { services: before, .. }, State::Connected { services: now, .. }) => before != now,
        _ => before != now,
    }
}

fn show(state: &State, client: &ClientId, services: &[Service]) {
    let green = Style::new().bold().fg_color(Some(AnsiColor::Green.into()));
    let yellow = Style::new().bold().fg_color(Some(AnsiColor::Yellow.into()));
    let bold = Style::new().bold();
    match state {
        State::Connecting => {}
        State::Connected { server, services: public, .. } => {
            println!("{green}connected{green:#} to {server} as {client}");
            for service in public {
                let local = services.iter().find(|local| local.name == service.name);
                let local = local.map_or_else(|| "?".to_owned(), |local| format!("http://{}", local.local.authority()));
                for (i, url) in service.public_urls.iter().enumerate() {
                    if i == 0 {
                        println!("  {bold}{url}{bold:#}  ->  {local}");
                    } else {
                        println!("  or {url}");
                    }
                }
            }
        }
        State::Waiting { why, retry_in } => {
            println!("{yellow}not connected:{yellow:#} {why}");
            println!("  trying again in {:.1} s; Ctrl-C stops it", retry_in.as_secs_f64());
        }
        State::Ended => {}
    }
}
