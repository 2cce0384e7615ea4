//! A configuration file that changes while its agent runs.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use anstream::println;
use anstyle::{AnsiColor, Style};

use super::manager;
use super::sighup::Hangups;
use crate::agent::ServiceChanges;
use crate::agent::options::{AgentOptions, DEFAULT_AGENT_FILE};
use crate::files::Watch;
use crate::schema::{ConfigErrors, Flags};
use crate::telemetry::{RELOAD_LOG, STATUS_LOG};
use crate::values::harmless_text;

/// How often an agent without a token checks its token file, in case the system reports no change. Also the shortest delay
/// before refused services are offered again; the longest one follows.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
const OFFER_AGAIN_AT_LATEST: Duration = Duration::from_secs(15 * 60);

/// The file of an agent, and what the command line sets over it.
pub(super) struct AgentFile {
    path: PathBuf,
    flags: Flags,
    /// Watches since before the file was read, so that no change is missed.
    watch: io::Result<Watch>,
}

/// What has come of reading it again.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Services were changed, or not even those; these keys need a restart.
    Read { services: bool, restart: Vec<&'static str> },
    /// It is for another client.
    AnotherClient,
    /// It cannot be used.
    Refused(String),
}

impl AgentFile {
    /// Begins to watch `path`, or the usual one.
    pub(super) fn new(path: Option<PathBuf>, flags: Flags) -> Self {
        let path = path.unwrap_or_else(|| DEFAULT_AGENT_FILE.into());
        let watch = Watch::new(&path);
        Self { path, flags, watch }
    }

    /// Reads it.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub(super) fn read(&self) -> Result<AgentOptions, ConfigErrors> {
        AgentOptions::load(Some(&self.path), &self.flags)
    }

    /// Reads the configuration for an agent that can wait for its token file.
    ///
    /// # Errors
    /// As [`AgentFile::read`], but for the token file.
    pub(super) fn read_awaiting_token(&self) -> Result<AgentOptions, ConfigErrors> {
        AgentOptions::load_awaiting_token(Some(&self.path), &self.flags)
    }

    /// Takes over what changes in it, for ever, and whenever `hangups` hears of one. `started` is how the agent began.
    pub(super) async fn follow(
        self,
        mut hangups: Hangups,
        started: AgentOptions,
        changes: ServiceChanges,
    ) -> Infallible {
        let Self { path, flags, watch } = self;
        let mut watch = or_warn(watch, &path);
        let mut token_file = started.token_file.clone();
        let mut token_watch = watch_token(token_file.as_deref());
        let mut told = Vec::new();
        let mut awaits_token = started.awaited.is_some();
        let mut offers = OffersAgain::default();
        loop {
            let mut by_itself = false;
            tokio::select! {
                () = tokio::time::sleep(LOOK_AGAIN) => match offers.is_due(changes.was_refused()) || awaits_token {
                    true => by_itself = true,
                    false => continue,
                },
                () = changed(&mut watch) => {}
                () = changed(&mut token_watch) => {}
                () = hangups.next() => {
                    tracing::info!(target: RELOAD_LOG, "SIGHUP: reading {} again", path.display());
                    manager::reloading();
                    watch.iter_mut().for_each(Watch::forget);
                }
            }
            // Reading a file may take a while.
            let (path, flags, started, of_agent) = (path.clone(), flags.clone(), started.clone(), changes.clone());
            let again = move || read_again(&path, &flags, &started, &of_agent);
            let Ok((outcome, now)) = tokio::task::spawn_blocking(again).await else { continue };
            if let Some(now) = now.filter(|now| *now != token_file) {
                token_watch = watch_token(now.as_deref());
                token_file = now;
            }
            let is_read = matches!(outcome, Outcome::Read { .. });
            // Nothing has changed, so there is nothing to report: still no token, or services that are offered once more.
            if by_itself && !(is_read && awaits_token) {
                continue;
            }
            awaits_token &= !is_read;
            // A corrected configuration takes effect before the agent's next scheduled attempt.
            changes.reconnect_now();
            tell(outcome, &mut told);
            manager::ready();
        }
    }
}

/// The schedule for offering refused services again: the operator may have allowed them in the meantime.
#[derive(Debug, Default)]
struct OffersAgain(Option<(Instant, Duration)>);

impl OffersAgain {
    /// Returns whether it is time to offer them again. `are_refused` says whether the latest services are refused. Delays
    /// double each time.
    fn is_due(&mut self, are_refused: bool) -> bool {
        let now = Instant::now();
        let Some((at, wait)) = self.0.filter(|_| are_refused) else {
            self.0 = are_refused.then(|| (now + LOOK_AGAIN, LOOK_AGAIN));
            return false;
        };
        let is_due = at <= now;
        if is_due {
            let wait = (wait * 2).min(OFFER_AGAIN_AT_LATEST);
            self.0 = Some((now + wait, wait));
        }
        is_due
    }
}

fn watch_token(path: Option<&Path>) -> Option<Watch> {
    path.and_then(|path| or_warn(Watch::new(path), path))
}

fn or_warn(watch: io::Result<Watch>, path: &Path) -> Option<Watch> {
    watch
        .inspect_err(|error| {
            let path = path.display();
            tracing::warn!("changes of {path} will not be noticed by themselves ({error}): send SIGHUP after one");
        })
        .ok()
}

async fn changed(watch: &mut Option<Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// Gives the file of the token, too, if the configuration can be used.
fn read_again(
    path: &Path,
    flags: &Flags,
    started: &AgentOptions,
    changes: &ServiceChanges,
) -> (Outcome, Option<Option<PathBuf>>) {
    let now = match AgentOptions::load(Some(path), flags) {
        Ok(now) => now,
        Err(errors) => return (Outcome::Refused(errors.to_string()), None),
    };
    if now.client_id != started.client_id {
        return (Outcome::AnotherClient, None);
    }
    match changes.apply(&now) {
        Ok(services) => (Outcome::Read { services, restart: needs_restart(started, &now) }, Some(now.token_file)),
        Err(error) => (Outcome::Refused(error.to_string()), None),
    }
}

/// The keys that count only from the next start on.
fn needs_restart(started: &AgentOptions, now: &AgentOptions) -> Vec<&'static str> {
    let differs = [
        ("servers", now.servers != started.servers),
        ("ca or fingerprint", now.trust != started.trust),
        ("max_streams", now.max_streams != started.max_streams),
        ("exit_when_replaced", now.exit_when_replaced != started.exit_when_replaced),
        ("log", now.log != started.log),
    ];
    differs.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
}

/// Says what has come of a change, in the log and to whoever looks; what needs a restart only once.
fn tell(outcome: Outcome, told: &mut Vec<&'static str>) {
    let yellow = Style::new().bold().fg_color(Some(AnsiColor::Yellow.into()));
    match outcome {
        Outcome::Read { services, restart } => {
            match services {
                true => tracing::info!(target: STATUS_LOG, "the configuration has changed: taking its services over"),
                false => {
                    tracing::info!(target: RELOAD_LOG, "the configuration was read again: its services are the same")
                }
            }
            if !restart.is_empty() && restart != *told {
                let keys = restart.join(", ");
                tracing::warn!(target: STATUS_LOG, "changes of {keys} count from the next start on");
                println!("{yellow}restart needed{yellow:#} for changes of: {keys}");
            }
            *told = restart;
        }
        Outcome::AnotherClient => {
            let why = "client_id has changed, and an agent cannot become another client: restart it";
            tracing::warn!(target: STATUS_LOG, "the changed configuration was not taken over: {why}");
            println!("{yellow}not changed:{yellow:#} {why}");
        }
        Outcome::Refused(problems) => {
            for problem in problems.lines() {
                tracing::warn!(target: STATUS_LOG, "the changed configuration cannot be used: {problem}");
            }
            println!("{yellow}not changed:{yellow:#} the configuration cannot be used, everything stays as it was");
            println!("{}", harmless_text(&problems));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Agent;

    #[tokio::test(start_paused = true)]
    async fn refused_services_are_offered_again_at_growing_intervals() {
        let (mut offers, started) = (OffersAgain::default(), Instant::now());
        let mut due = Vec::new();
        while due.len() < 12 {
            if offers.is_due(true) {
                due.push(started.elapsed());
            }
            tokio::time::advance(LOOK_AGAIN).await;
        }
        assert_eq!(due[..3], [10, 30, 70].map(Duration::from_secs));
        assert_eq!(due[11] - due[10], OFFER_AGAIN_AT_LATEST);
        assert!(!offers.is_due(false) && !offers.is_due(true), "it begins anew");
        tokio::time::advance(LOOK_AGAIN).await;
        assert!(offers.is_due(true));
    }

    const BASE: &str = "servers = ['a.example']\nclient_id = 'alice'\ntoken = 'x'\n\
                        fingerprint = 'sha256:0000000000000000000000000000000000000000000000000000000000000000'\n";

    #[test]
    fn what_can_change_changes_and_the_rest_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        let write = |head: &str, local: &str| {
            std::fs::write(&path, format!("{head}[[services]]\nlocal = {local}\n")).unwrap();
        };
        write(BASE, "3000");
        let started = AgentOptions::load(Some(&path), &Flags::new()).unwrap();
        let changes = Agent::new(started.clone()).unwrap().changes();
        let again = || read_again(&path, &Flags::new(), &started, &changes).0;
        let read = |services, restart: &[&'static str]| Outcome::Read { services, restart: restart.to_vec() };
        assert_eq!(again(), read(false, &[]));
        write(BASE, "4000");
        assert_eq!(again(), read(true, &[]));
        let other = BASE.replace("a.example", "b.example").replace(":00", ":11");
        write(&format!("max_streams = 7\nlog.level = 'debug'\n{other}"), "4000");
        assert_eq!(again(), read(false, &["servers", "ca or fingerprint", "max_streams", "log"]));
        write(&BASE.replace("alice", "bob"), "5000");
        assert_eq!(again(), Outcome::AnotherClient);
        write(BASE, "'nowhere'\nnmae = 'x'");
        let Outcome::Refused(problems) = again() else { panic!() };
        assert_eq!(problems.lines().count(), 2, "{problems}");
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(again(), Outcome::Refused(_)));
        write(BASE, "4000");
        assert_eq!(again(), read(false, &[]), "nothing of what was refused has stayed");
    }
}
