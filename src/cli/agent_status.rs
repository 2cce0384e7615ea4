//! Prints the status of a running agent: its public addresses, or why it has none.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use anstream::print;
use anstyle::{AnsiColor, Style};
use ipnet::IpNet;
use tokio::sync::watch;

use crate::agent::options::{LocalUrl, Place, Rule, Service};
use crate::agent::{LostName, State};
use crate::protocol::access::AccessPolicy;
use crate::protocol::login::{PublicService, ServiceKind};
use crate::values::{ClientId, harmless_line};

/// The number of failed attempts for one reason after which a reminder is printed; it doubles with each reminder.
const FIRST_REMINDER: u32 = 5;

/// The number of services from which on only one address of each is printed.
const MANY: usize = 4;

/// Prints each change of state until the agent has ended. With many services, only `is_verbose` shows all their addresses.
pub(super) async fn show_status(mut state: watch::Receiver<State>, client: ClientId, is_verbose: bool) {
    let mut printed = Printed::default();
    let mut countdown = Countdown::new(std::io::stdout().is_terminal());
    loop {
        let now = state.borrow_and_update().clone();
        print!("{}", countdown.text_for(&now));
        for news in printed.notices_for(&now) {
            print!("{}", text_of(&news, &client, is_verbose));
        }
        // The countdown ends without a line end.
        let _ = anstream::stdout().flush();
        if now == State::Ended || state.changed().await.is_err() {
            return;
        }
    }
}

/// Clears the rest of the line on a terminal.
const CLEAR: &str = "\x1b[K";

/// The countdown of a stopping agent: on a terminal one line that changes, otherwise a line of its own, once.
#[derive(Debug)]
struct Countdown {
    is_terminal: bool,
    is_shown: bool,
}

impl Countdown {
    fn new(is_terminal: bool) -> Self {
        Self { is_terminal, is_shown: false }
    }

    /// Returns what to print.
    fn text_for(&mut self, state: &State) -> String {
        let was_shown = self.is_shown;
        let State::Finishing { requests, left } = state else {
            self.is_shown = false;
            return if was_shown && self.is_terminal { "\n".to_owned() } else { String::new() };
        };
        self.is_shown = true;
        let what = if *requests == 1 { "request" } else { "requests" };
        let left = left.as_secs_f64().ceil();
        let begun = format!("finishing {requests} {what}, Ctrl-C again to quit now");
        match (self.is_terminal, was_shown) {
            // It starts at the margin, over what the terminal shows of Ctrl-C.
            (true, false) => format!("\r{CLEAR}{begun}\n{requests} {what}, {left} s left"),
            (true, true) => format!("\r{CLEAR}{requests} {what}, {left} s left"),
            (false, false) => format!("{begun} ({left} s at most)\n"),
            (false, true) => String::new(),
        }
    }
}

/// A change of state that is worth a message.
#[derive(Debug, PartialEq, Eq)]
enum Notice<'a> {
    /// Visitors can reach the agent.
    Connected { server: &'a str, offered: Offered<'a> },
    /// The offered services have changed.
    Changed(Offered<'a>),
    /// This agent has taken over names from other agents.
    TookOver { names: Vec<LostName>, offered: Offered<'a> },
    /// Other agents have all of this agent's names.
    Standby { server: &'a str, elsewhere: &'a [LostName] },
    /// A change was refused.
    NotChanged(&'a str),
    /// It failed for a reason that was not printed yet.
    NotConnected { why: &'a str, retry_in: Duration },
    /// It has failed repeatedly for the same reason.
    StillNot { attempts: u32, retry_in: Duration },
}

/// The offered services: as visitors reach them, and as they are configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Offered<'a> {
    public: &'a [PublicService],
    configured: &'a [Service],
    /// The names that another agent has.
    elsewhere: &'a [LostName],
}

/// What was printed last. Another lane, or another attempt with the same result, is not printed.
#[derive(Debug, Default)]
struct Printed {
    /// The server, and the services there.
    connected: Option<(String, Vec<PublicService>, Arc<[Service]>)>,
    /// The names that other agents have.
    elsewhere: Vec<LostName>,
    /// Whether it was reported that they have all names.
    standby: bool,
    refused: Option<String>,
    /// The reason, the number of attempts that failed for it, and the number at which to remind of it.
    failure: Option<(String, u32, u32)>,
}

impl Printed {
    fn notices_for<'a>(&mut self, now: &'a State) -> Vec<Notice<'a>> {
        match now {
            // The countdown shows the former.
            State::Finishing { .. } | State::Connecting | State::Ended => Vec::new(),
            State::Connected { server, services, configured, refused, elsewhere, .. } => {
                self.failure = None;
                self.standby = false;
                let offered = Offered { public: services, configured, elsewhere };
                let now = (server.clone(), services.clone(), Arc::clone(configured));
                let before = std::mem::replace(&mut self.elsewhere, elsewhere.clone());
                let mut won = before.into_iter().filter(|lost| services.iter().any(|public| public.name == lost.name));
                let news = match (self.connected.replace(now), won.next()) {
                    (_, Some(first)) => {
                        Some(Notice::TookOver { names: std::iter::once(first).chain(won).collect(), offered })
                    }
                    (Some((at, public, local)), None) if at == *server => {
                        (public != *services || local != *configured).then_some(Notice::Changed(offered))
                    }
                    _ => Some(Notice::Connected { server, offered }),
                };
                let is_told = std::mem::replace(&mut self.refused, refused.clone()) == *refused;
                let not_changed = refused.as_deref().filter(|_| !is_told).map(Notice::NotChanged);
                news.into_iter().chain(not_changed).collect()
            }
            State::Standby { server, elsewhere } => {
                (self.failure, self.connected) = (None, None);
                let is_told = std::mem::replace(&mut self.standby, true) && self.elsewhere == *elsewhere;
                self.elsewhere.clone_from(elsewhere);
                if is_told { Vec::new() } else { vec![Notice::Standby { server, elsewhere }] }
            }
            State::Waiting { why, retry_in } => {
                (self.connected, self.standby) = (None, false);
                let news = match &mut self.failure {
                    Some((before, attempts, remind_at)) if before == why => {
                        *attempts = attempts.saturating_add(1);
                        if attempts < remind_at {
                            return Vec::new();
                        }
                        *remind_at = remind_at.saturating_mul(2);
                        Notice::StillNot { attempts: *attempts, retry_in: *retry_in }
                    }
                    _ => {
                        self.failure = Some((why.clone(), 1, FIRST_REMINDER));
                        Notice::NotConnected { why, retry_in: *retry_in }
                    }
                };
                vec![news]
            }
        }
    }
}

/// Returns the message. Much of it comes from the server, which must not control this terminal.
fn text_of(news: &Notice<'_>, client: &ClientId, is_verbose: bool) -> String {
    let green = Style::new().bold().fg_color(Some(AnsiColor::Green.into()));
    let yellow = Style::new().bold().fg_color(Some(AnsiColor::Yellow.into()));
    match news {
        Notice::Connected { server, offered } => {
            format!(
                "{green}connected{green:#} to {} as {client}\n{}",
                harmless_line(server),
                text_of_offered(offered, is_verbose)
            )
        }
        Notice::Changed(offered) => format!("{green}changed{green:#}\n{}", text_of_offered(offered, is_verbose)),
        Notice::TookOver { names, offered } => {
            let names =
                names.iter().map(|lost| format!("`{}`{}", lost.name, had_by(lost))).collect::<Vec<_>>().join(", ");
            format!(
                "{yellow}TAKING OVER{yellow:#} {}: visitors reach this agent until the other one returns\n{}",
                harmless_line(&names),
                text_of_offered(offered, is_verbose)
            )
        }
        Notice::Standby { server, elsewhere } => {
            let mut text = format!(
                "{yellow}standing by{yellow:#} at {}: this agent receives no visitors\n",
                harmless_line(server)
            );
            for lost in *elsewhere {
                text.push_str(&format!("  {}\n", text_of_elsewhere(lost)));
            }
            text + "  this agent takes a name when it has been free for 30 s; to serve from both agents, give them two names \
                    (--name) or the same `group`\n"
        }
        Notice::NotChanged(why) => format!(
            "{yellow}not changed:{yellow:#} the server refused: {}\n  \
             everything stays as it was; change the file again, or ask the operator to allow it; the agent retries on \
             its own\n",
            harmless_line(why)
        ),
        Notice::NotConnected { why, retry_in } => format!(
            "{yellow}not connected:{yellow:#} {}\n  trying again in {:.1} s; Ctrl-C stops it\n",
            harmless_line(why),
            retry_in.as_secs_f64()
        ),
        Notice::StillNot { attempts, retry_in } => format!(
            "{yellow}still not connected{yellow:#} ({attempts} attempts); trying again in {:.1} s\n",
            retry_in.as_secs_f64()
        ),
    }
}

/// Returns ` from …`, the agent that had a name before.
fn had_by(lost: &LostName) -> String {
    lost.owner().map_or_else(String::new, |owner| format!(" from {owner}"))
}

/// Returns which agent has a name.
fn text_of_elsewhere(lost: &LostName) -> String {
    match &lost.by {
        Some(_) => format!("{}: {}", lost.name, why_elsewhere(lost)),
        None => format!("{}: free; {}", lost.name, why_elsewhere(lost)),
    }
}

fn why_elsewhere(LostName { by, before, .. }: &LostName) -> String {
    match (by, before) {
        (Some(by), _) => format!("{} was started later and has the name", harmless_line(by)),
        (None, Some(before)) => format!("the name is reserved for {}, which had it last", harmless_line(before)),
        (None, None) => "the name is reserved for the agent that had it last".to_owned(),
    }
}

fn text_of_offered(Offered { public, configured, elsewhere }: &Offered<'_>, is_verbose: bool) -> String {
    let is_brief = public.len() >= MANY && !is_verbose;
    let yellow = Style::new().bold().fg_color(Some(AnsiColor::Yellow.into()));
    let bold = Style::new().bold();
    let (mut text, mut hidden) = (String::new(), 0);
    for service in *public {
        let local = configured.iter().find(|local| local.name == service.name);
        let to = local
            .map_or_else(|| "?".to_owned(), |local| local_of(local.kind, &local.local) + &conditions_of(&local.access));
        // By header alone, or the server has taken that way away.
        if service.public_urls.is_empty() {
            text.push_str(&format!("  {bold}{}{bold:#}, without an address of its own  ->  {to}\n", service.name));
        }
        // The others would hide the services themselves.
        let shown = if is_brief { 1 } else { usize::MAX };
        for (i, url) in service.public_urls.iter().take(shown).enumerate() {
            let url = harmless_line(url);
            text.push_str(&match i {
                0 => format!("  {bold}{url}{bold:#}  ->  {to}\n"),
                _ => format!("  or {url}\n"),
            });
        }
        if is_brief && service.public_urls.len() > 1 {
            hidden += service.public_urls.len() - 1;
        }
        if service.taken_over {
            let other = service.taken_from.as_ref().map(ToString::to_string);
            let other =
                other.map_or_else(|| "another agent of yours".into(), |other| harmless_line(&other).into_owned());
            text.push_str(&format!("     {yellow}until now {other} had this name{yellow:#}\n"));
        }
        for rule in local.iter().flat_map(|local| &local.rules) {
            text.push_str(&format!("     {}  ->  {}\n", condition_of(rule), local_of(ServiceKind::Http, &rule.local)));
        }
    }
    if hidden > 0 {
        text.push_str(&format!("  and {hidden} more addresses: -v shows them\n"));
    }
    for gone in configured.iter().filter(|local| !public.iter().any(|service| service.name == local.name)) {
        let why = match elsewhere.iter().find(|lost| lost.name == gone.name) {
            Some(lost) => why_elsewhere(lost),
            None => "a newer agent of yours has the name, or the operator does not allow it any more".to_owned(),
        };
        text.push_str(&format!("  {yellow}{} cannot be reached here:{yellow:#} {why}\n", gone.name));
    }
    text
}

/// Summarizes the access conditions; empty if there are none.
fn conditions_of(access: &AccessPolicy) -> String {
    let networks = |list: &[IpNet]| match list {
        [one] if one.prefix_len() == one.max_prefix_len() => one.addr().to_string(),
        [one] => one.to_string(),
        several => format!("{} networks", several.len()),
    };
    let AccessPolicy { allow, deny, basic_auth, header, webhook, preflight: _ } = access;
    let conditions = [
        (!allow.is_empty()).then(|| format!("only from {}", networks(allow))),
        (!deny.is_empty()).then(|| format!("not from {}", networks(deny))),
        (!basic_auth.is_empty()).then(|| "with a password".to_owned()),
        header.as_ref().map(|header| format!("with {}", header.name)),
        webhook.as_ref().map(|webhook| format!("signed as by {}", webhook.scheme.word())),
    ];
    let conditions: Vec<String> = conditions.into_iter().flatten().collect();
    if conditions.is_empty() { String::new() } else { format!("  ({})", conditions.join(", ")) }
}

/// Describes when a rule matches.
fn condition_of(rule: &Rule) -> String {
    let path = rule.path.as_ref().map(|path| if path.is_empty() { "/".to_owned() } else { path.clone() });
    let header = rule.header.as_ref().map(|header| match &header.value {
        Some(value) => format!("{}: {}", header.name, harmless_line(&String::from_utf8_lossy(value.as_bytes()))),
        None => header.name.to_string(),
    });
    path.into_iter().chain(header).collect::<Vec<_>>().join(" with ")
}

/// Returns the address of the local application, as a person would write it.
fn local_of(kind: ServiceKind, local: &LocalUrl) -> String {
    match (kind, local.scheme, &local.place) {
        (ServiceKind::Http, None, Place::Tcp { .. }) => format!("http://{}", local.authority()),
        _ => local.shown(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::agent::options::AgentOptions;
    use crate::schema::{Environment, Flags};
    use crate::values::Name;

    fn configured(services: &str) -> Arc<[Service]> {
        let text = format!("servers = ['a']\nclient_id = 'alice'\ntoken = 'x'\n{services}");
        let config = AgentOptions::from_text(Path::new("a.toml"), &text, &Environment::default(), &Flags::new());
        config.unwrap().services.into()
    }

    fn public(name: &str, urls: &[&str]) -> PublicService {
        let public_urls = urls.iter().map(|url| (*url).to_owned()).collect();
        PublicService { name: Name::new(name).unwrap(), public_urls, taken_over: false, taken_from: None }
    }

    fn connected(server: &str, lanes: usize, services: Vec<PublicService>, refused: Option<&str>) -> State {
        let configured = configured("[[services]]\nlocal = 3000");
        let (server, refused) = (server.to_owned(), refused.map(str::to_owned));
        State::Connected { server, services, configured, lanes, refused, elsewhere: Vec::new() }
    }

    fn waiting(why: &str) -> State {
        State::Waiting { why: why.to_owned(), retry_in: Duration::from_secs(1) }
    }

    #[test]
    fn a_reason_is_told_once_and_then_seldom() {
        let mut printed = Printed::default();
        let mut heard = Vec::new();
        for attempt in 1..=40 {
            assert_eq!(printed.notices_for(&State::Connecting), []);
            match printed.notices_for(&waiting("refused")).pop() {
                Some(Notice::NotConnected { why: "refused", .. }) => heard.push((attempt, "reason")),
                Some(Notice::StillNot { attempts, .. }) if attempts == attempt => heard.push((attempt, "reminder")),
                None => {}
                other => panic!("{other:?} at attempt {attempt}"),
            }
        }
        assert_eq!(heard, [(1, "reason"), (5, "reminder"), (10, "reminder"), (20, "reminder"), (40, "reminder")]);
        assert!(matches!(printed.notices_for(&waiting("silent"))[..], [Notice::NotConnected { why: "silent", .. }]));
        assert!(matches!(printed.notices_for(&waiting("refused"))[..], [Notice::NotConnected { why: "refused", .. }]));
    }

    #[test]
    fn a_connection_is_told_once_and_ends_the_trouble() {
        let mut printed = Printed::default();
        assert_eq!(printed.notices_for(&waiting("lost")).len(), 1);
        let one = connected("a", 1, vec![], None);
        assert!(matches!(printed.notices_for(&one)[..], [Notice::Connected { server: "a", .. }]));
        assert_eq!(printed.notices_for(&connected("a", 2, vec![], None)), [], "another lane");
        assert!(matches!(printed.notices_for(&waiting("lost"))[..], [Notice::NotConnected { .. }]), "lost anew");
        assert_eq!(printed.notices_for(&one).len(), 1, "and back again");
        assert_eq!(printed.notices_for(&State::Ended), []);
    }

    #[test]
    fn a_countdown_is_one_line_on_a_terminal_and_said_once_otherwise() {
        let left = |requests, seconds| State::Finishing { requests, left: Duration::from_secs_f64(seconds) };
        let states = [left(2, 29.99), left(1, 28.4), State::Ended];
        let said = |is_terminal| {
            let mut countdown = Countdown::new(is_terminal);
            states.iter().map(|state| countdown.text_for(state)).collect::<Vec<_>>()
        };
        assert_eq!(said(false), ["finishing 2 requests, Ctrl-C again to quit now (30 s at most)\n", "", ""]);
        assert_eq!(
            said(true),
            [
                "\r\x1b[Kfinishing 2 requests, Ctrl-C again to quit now\n2 requests, 30 s left",
                "\r\x1b[K1 request, 29 s left",
                "\n"
            ]
        );
    }

    #[test]
    fn changed_services_are_told_and_so_is_a_refusal() {
        let mut printed = Printed::default();
        printed.notices_for(&connected("a", 1, vec![], None));
        let more = vec![public("alice", &["http://a/"])];
        assert!(matches!(printed.notices_for(&connected("a", 1, more.clone(), None))[..], [Notice::Changed(_)]));
        let refused = connected("a", 1, more.clone(), Some("not yours"));
        assert_eq!(printed.notices_for(&refused), [Notice::NotChanged("not yours")]);
        assert_eq!(printed.notices_for(&refused), []);
        assert_eq!(printed.notices_for(&connected("a", 1, more.clone(), None)), [], "put back as it was");
        assert_eq!(printed.notices_for(&refused), [Notice::NotChanged("not yours")], "and tried again");
    }

    #[test]
    fn each_service_is_shown_with_its_applications_and_those_out_of_reach_are_named() {
        let configured = configured(
            "[[services]]\nlocal = 3000\n[[services.rules]]\npath = '/api'\nlocal = 'h2c://app:1'\n\
             [[services.rules]]\npath = '/'\nheader = { name = 'X-V', value = '2' }\nlocal = 4000\n\
             [[services]]\nname = 'db'\nkind = 'tcp'\nlocal = 5432\n\
             [[services]]\nname = 'own'\nkind = 'tls'\nlocal = 443",
        );
        let mut own = public("own", &[]);
        own.taken_over = true;
        let public = [public("alice", &["http://alice.a/", "http://a/alice/"]), own];
        let offered = Offered { public: &public, configured: &configured, elsewhere: &[] };
        let text = text_of(&Notice::Changed(offered), &ClientId::new("alice").unwrap(), false);
        let plain = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(
            plain,
            "changed\n  http://alice.a/  ->  http://localhost:3000\n  or http://a/alice/\n     \
             /api  ->  h2c://app:1\n     / with x-v: 2  ->  http://localhost:4000\n  \
             own, without an address of its own  ->  localhost:443\n     \
             until now another agent of yours had this name\n  \
             db cannot be reached here: a newer agent of yours has the name, or the operator does not allow it any more\n"
        );
    }

    #[test]
    fn of_many_services_each_has_one_address_unless_more_is_asked_for() {
        let public: Vec<PublicService> = ["a", "b", "c", "d"]
            .iter()
            .map(|name| public(name, &[&format!("http://{name}.x/"), &format!("http://x/{name}/")]))
            .collect();
        let shown = |number: usize, is_verbose: bool| {
            let offered = Offered { public: &public[..number], configured: &[], elsewhere: &[] };
            anstream::adapter::strip_str(&text_of_offered(&offered, is_verbose)).to_string()
        };
        let brief = "  http://a.x/  ->  ?\n  http://b.x/  ->  ?\n  http://c.x/  ->  ?\n  http://d.x/  ->  ?\n  and 4 more addresses: \
                     -v shows them\n";
        assert_eq!(shown(4, false), brief);
        assert_eq!(shown(4, true).matches("  or http://x/").count(), 4);
        assert_eq!(shown(3, false).matches("  or http://x/").count(), 3, "there is room for all");
    }

    fn elsewhere(name: &str, by: Option<&str>) -> LostName {
        LostName { name: Name::new(name).unwrap(), by: by.map(str::to_owned), before: None }
    }

    fn standby(elsewhere: Vec<LostName>) -> State {
        State::Standby { server: "a".to_owned(), elsewhere }
    }

    fn plain(news: &Notice<'_>) -> String {
        anstream::adapter::strip_str(&text_of(news, &ClientId::new("alice").unwrap(), false)).to_string()
    }

    #[test]
    fn a_standby_and_a_takeover_are_told_with_the_other_agent() {
        let mut printed = Printed::default();
        let desktop = "adit 1.0 (linux) on desktop (192.0.2.1)";
        let lost = standby(vec![elsewhere("alice", Some(desktop))]);
        let news = printed.notices_for(&lost);
        let [news @ Notice::Standby { server: "a", .. }] = &news[..] else { panic!("{news:?}") };
        let text = plain(news);
        assert!(text.starts_with("standing by at a: this agent receives no visitors\n"), "{text}");
        assert!(text.contains(&format!("alice: {desktop} was started later and has the name")), "{text}");
        assert_eq!(printed.notices_for(&lost), [], "once");
        assert_eq!(printed.notices_for(&State::Connecting), []);
        let free = standby(vec![elsewhere("alice", None)]);
        assert!(
            plain(&printed.notices_for(&free)[0])
                .contains("alice: free; the name is reserved for the agent that had it last")
        );
        let free = standby(vec![LostName { before: Some(desktop.to_owned()), ..elsewhere("alice", None) }]);
        let text = plain(&printed.notices_for(&free)[0]);
        assert!(
            text.contains(&format!("alice: free; the name is reserved for {desktop}, which had it last")),
            "{text}"
        );
        let won = connected("a", 1, vec![public("alice", &["http://a/"])], None);
        let news = printed.notices_for(&won);
        let [news @ Notice::TookOver { .. }] = &news[..] else { panic!("{news:?}") };
        let text = plain(news);
        assert!(text.starts_with(&format!("TAKING OVER `alice` from {desktop}: visitors reach this agent")), "{text}");
        assert!(text.contains("http://a/"), "{text}");
        assert_eq!(printed.notices_for(&won), []);
        assert_eq!(printed.notices_for(&lost).len(), 1, "and away again");
        printed.notices_for(&waiting("lost"));
        assert_eq!(printed.notices_for(&lost).len(), 1, "after a lost connection it is news again");
    }

    #[test]
    fn a_name_that_another_agent_has_is_named_with_it() {
        let configured = configured("[[services]]\nlocal = 3000\n[[services]]\nname = 'blog'\nlocal = 4000");
        let public = [public("alice", &["http://a/"])];
        let lost = [elsewhere("blog", Some("adit on desktop\x1b[2J"))];
        let text = plain(&Notice::Changed(Offered { public: &public, configured: &configured, elsewhere: &lost }));
        assert!(text.contains("blog cannot be reached here: adit on desktop[2J was started later"), "{text:?}");
    }

    #[test]
    fn who_gets_in_stands_beside_a_service() {
        let hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$aGFzaGhhc2g";
        for (access, shown) in [
            (String::new(), ""),
            ("allow = ['192.0.2.1']".to_owned(), "  (only from 192.0.2.1)"),
            (
                format!("allow = ['10.0.0.0/8', '::1']\ndeny = ['10.1.0.0/16']\nbasic_auth = {{ ann = '{hash}' }}"),
                "  (only from 2 networks, not from 10.1.0.0/16, with a password)",
            ),
            (
                "header = { name = 'X-Key', value = 'hunter2' }\nwebhook = { scheme = 'github', secret = 's' }"
                    .to_owned(),
                "  (with x-key, signed as by github)",
            ),
        ] {
            let configured = configured(&format!("[[services]]\nlocal = 3000\n[services.access]\n{access}"));
            assert_eq!(conditions_of(&configured[0].access), shown);
        }
    }

    #[test]
    fn a_server_does_not_steer_the_terminal() {
        let clear = "\x1b[2J";
        let client = ClientId::new("alice").unwrap();
        let (first, second) = (format!("http://a/{clear}"), format!("http://b/{clear}"));
        let services = [public("alice", &[&first, &second])];
        let offered = Offered { public: &services, configured: &[], elsewhere: &[] };
        for (news, shown) in [
            (Notice::Connected { server: clear, offered }, "  or http://b/[2J\n"),
            (Notice::NotChanged(clear), "refused: [2J\n"),
            (Notice::NotConnected { why: clear, retry_in: Duration::from_secs(1) }, " [2J\n"),
        ] {
            let text = text_of(&news, &client, false);
            assert!(!text.contains(clear) && text.contains(shown), "{text:?}");
        }
    }
}
