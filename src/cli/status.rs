//! What a self-hoster sees of a running agent: where it can be reached, and what keeps it from that.

use std::time::Duration;

use anstream::print;
use anstyle::{AnsiColor, Style};
use tokio::sync::watch;

use super::terminal::harmless;
use crate::agent::State;
use crate::config::{LocalUrl, Place, Service};
use crate::protocol::login::{PublicService, ServiceKind};
use crate::values::ClientId;

/// After so many failed attempts for one reason a reminder is due, and then each time they have doubled.
const FIRST_REMINDER: u32 = 5;

/// Prints each change of state until the agent has ended.
pub(super) async fn show_status(mut state: watch::Receiver<State>, client: ClientId, services: Vec<Service>) {
    let mut told = Told::default();
    loop {
        let now = state.borrow_and_update().clone();
        if let Some(news) = told.news_of(&now) {
            print!("{}", text_of(&news, &client, &services));
        }
        if now == State::Ended || state.changed().await.is_err() {
            return;
        }
    }
}

/// What a person wants to hear of.
#[derive(Debug, PartialEq, Eq)]
enum News<'a> {
    /// Visitors can come.
    Connected { server: &'a str, services: &'a [PublicService] },
    /// It failed for a reason that was not told yet.
    NotConnected { why: &'a str, retry_in: Duration },
    /// It has failed for the same reason so many times.
    StillNot { attempts: u32, retry_in: Duration },
}

/// What a person was told last. Another lane, or the next attempt with the same result, is no news.
#[derive(Debug, Default)]
struct Told {
    connected: Option<Vec<PublicService>>,
    /// The reason, how many attempts failed for it, and when to remind of it.
    trouble: Option<(String, u32, u32)>,
}

impl Told {
    fn news_of<'a>(&mut self, now: &'a State) -> Option<News<'a>> {
        match now {
            State::Connecting | State::Ended => None,
            State::Connected { server, services, .. } => {
                self.trouble = None;
                if self.connected.as_ref() == Some(services) {
                    return None;
                }
                self.connected = Some(services.clone());
                Some(News::Connected { server, services })
            }
            State::Waiting { why, retry_in } => {
                self.connected = None;
                match &mut self.trouble {
                    Some((before, attempts, remind_at)) if before == why => {
                        *attempts = attempts.saturating_add(1);
                        if attempts < remind_at {
                            return None;
                        }
                        *remind_at = remind_at.saturating_mul(2);
                        Some(News::StillNot { attempts: *attempts, retry_in: *retry_in })
                    }
                    _ => {
                        self.trouble = Some((why.clone(), 1, FIRST_REMINDER));
                        Some(News::NotConnected { why, retry_in: *retry_in })
                    }
                }
            }
        }
    }
}

/// What is printed. Much of it comes from the server, which is not to steer this terminal.
fn text_of(news: &News<'_>, client: &ClientId, services: &[Service]) -> String {
    let green = Style::new().bold().fg_color(Some(AnsiColor::Green.into()));
    let yellow = Style::new().bold().fg_color(Some(AnsiColor::Yellow.into()));
    let bold = Style::new().bold();
    match news {
        News::Connected { server, services: public } => {
            let mut text = format!("{green}connected{green:#} to {} as {client}\n", harmless(server));
            for service in *public {
                let local = services.iter().find(|local| local.name == service.name);
                let local = local.map_or_else(|| "?".to_owned(), local_of);
                for (i, url) in service.public_urls.iter().enumerate() {
                    let url = harmless(url);
                    text.push_str(&match i {
                        0 => format!("  {bold}{url}{bold:#}  ->  {local}\n"),
                        _ => format!("  or {url}\n"),
                    });
                }
            }
            text
        }
        News::NotConnected { why, retry_in } => format!(
            "{yellow}not connected:{yellow:#} {}\n  trying again in {:.1} s; Ctrl-C stops it\n",
            harmless(why),
            retry_in.as_secs_f64()
        ),
        News::StillNot { attempts, retry_in } => format!(
            "{yellow}still not connected{yellow:#} ({attempts} attempts); trying again in {:.1} s\n",
            retry_in.as_secs_f64()
        ),
    }
}

/// The local application as a person would write it.
fn local_of(service: &Service) -> String {
    let LocalUrl { scheme, place, text } = &service.local;
    match (service.kind, scheme, place) {
        (ServiceKind::Http, None, Place::Tcp { .. }) => format!("http://{}", service.local.authority()),
        (_, None, Place::Tcp { .. }) => service.local.authority(),
        _ => text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::Name;

    fn connected(server: &str, lanes: usize) -> State {
        State::Connected { server: server.to_owned(), services: Vec::new(), lanes }
    }

    fn waiting(why: &str) -> State {
        State::Waiting { why: why.to_owned(), retry_in: Duration::from_secs(1) }
    }

    #[test]
    fn a_reason_is_told_once_and_then_seldom() {
        let mut told = Told::default();
        let mut heard = Vec::new();
        for attempt in 1..=40 {
            assert_eq!(told.news_of(&State::Connecting), None);
            match told.news_of(&waiting("refused")) {
                Some(News::NotConnected { why: "refused", .. }) => heard.push((attempt, "reason")),
                Some(News::StillNot { attempts, .. }) if attempts == attempt => heard.push((attempt, "reminder")),
                None => {}
                other => panic!("{other:?} at attempt {attempt}"),
            }
        }
        assert_eq!(heard, [(1, "reason"), (5, "reminder"), (10, "reminder"), (20, "reminder"), (40, "reminder")]);
        assert!(matches!(told.news_of(&waiting("silent")), Some(News::NotConnected { why: "silent", .. })));
        assert!(matches!(told.news_of(&waiting("refused")), Some(News::NotConnected { why: "refused", .. })));
    }

    #[test]
    fn a_connection_is_told_once_and_ends_the_trouble() {
        let mut told = Told::default();
        assert!(told.news_of(&waiting("lost")).is_some());
        assert_eq!(told.news_of(&connected("a", 1)), Some(News::Connected { server: "a", services: &[] }));
        assert_eq!(told.news_of(&connected("a", 2)), None, "another lane");
        assert!(matches!(told.news_of(&waiting("lost")), Some(News::NotConnected { .. })), "lost anew");
        assert!(told.news_of(&connected("a", 1)).is_some(), "and back again");
        assert_eq!(told.news_of(&State::Ended), None);
    }

    #[test]
    fn a_server_does_not_steer_the_terminal() {
        let clear = "\x1b[2J";
        let client = ClientId::new("alice").unwrap();
        let urls = vec![format!("http://a/{clear}"), format!("http://b/{clear}")];
        let services = [PublicService { name: Name::new("alice").unwrap(), public_urls: urls }];
        let second = Duration::from_secs(1);
        for (news, shown) in [
            (News::Connected { server: clear, services: &services }, "  or http://b/[2J\n"),
            (News::NotConnected { why: clear, retry_in: second }, " [2J\n"),
        ] {
            let text = text_of(&news, &client, &[]);
            assert!(!text.contains(clear) && text.contains(shown), "{text:?}");
        }
    }
}
