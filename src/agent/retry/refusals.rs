//! The retry schedule of each server after a refused login.
//!
//! A refusal is often temporary: the operator is about to add the client, renew it or finish writing the clients file, or
//! one of several servers has an older file than the others. So every server has its own schedule, and a refusal by one
//! does not delay attempts at the others.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

use crate::agent::connector::ConnectError;
use crate::protocol::login::{Refusal, Refused};

/// The shortest delay after a refusal, and half of the longest one. Jitter can double a delay, so delays grow from seconds
/// to 15 minutes.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST_BEFORE_JITTER: Duration = Duration::from_secs(15 * 60 / 2);

/// The failures at each of an agent's servers since the last successful login.
#[derive(Debug)]
pub(in crate::agent) struct RetrySchedule(Vec<Server>);

#[derive(Debug, Default)]
struct Server {
    /// Why the last attempt failed, for display.
    failure: Option<String>,
    /// The next attempt must not start before this moment.
    held_until: Option<Instant>,
    /// The delays after refusals; `None` before the first one.
    delays: Option<ExponentialBackoff>,
    /// Its latest refusal that lasts until the operator or the owner of the agent changes something.
    refused: Option<Refused>,
}

impl RetrySchedule {
    /// Starts with `servers` servers, none of which was tried yet.
    pub(in crate::agent) fn new(servers: usize) -> Self {
        Self((0..servers).map(|_| Server::default()).collect())
    }

    /// Returns whether the server at this index may be tried now.
    pub(in crate::agent) fn may_ask(&self, server: usize) -> bool {
        let until = self.0.get(server).and_then(|server| server.held_until);
        until.is_none_or(|until| until <= Instant::now())
    }

    /// Records a failed attempt at the server at this index. `name` is how it is shown.
    pub(in crate::agent) fn failed(&mut self, server: usize, name: &str, error: &ConnectError) {
        let Some(server) = self.0.get_mut(server) else { return };
        server.failure = Some(format!("{name}: {error}"));
        let asked_for = error.retry_after();
        let wait = match error {
            ConnectError::Refused(refused) if !refused.code.may_retry() => {
                server.refused = Some(refused.clone());
                let next = server.delays.get_or_insert_with(delays).next();
                next.unwrap_or(LONGEST_BEFORE_JITTER).max(asked_for)
            }
            _ => asked_for,
        };
        server.held_until = (!wait.is_zero()).then(|| Instant::now() + wait);
    }

    /// Returns how long to wait before the next round: until the first server may be tried, but at least for `backoff`
    /// unless all servers have refused.
    pub(in crate::agent) fn wait(&self, backoff: impl FnOnce() -> Duration) -> Duration {
        let now = Instant::now();
        let left = |server: &Server| server.held_until.map_or(Duration::ZERO, |until| until.duration_since(now));
        let soonest = self.0.iter().map(left).min().unwrap_or_default();
        let is_refused_by_all = self.0.iter().all(|server| server.held_until.is_some() && server.refused.is_some());
        if is_refused_by_all { soonest } else { soonest.max(backoff()) }
    }

    /// Returns why the last attempt at each server failed, joined for display.
    pub(in crate::agent) fn failures(&self) -> String {
        let failures: Vec<&str> = self.0.iter().filter_map(|server| server.failure.as_deref()).collect();
        failures.join("; ")
    }

    /// Returns the refusal of each server, if every server has refused in a way that lasts. With `is_known`, a server has
    /// accepted the token before, so `bad_token` does not count as lasting.
    pub(in crate::agent) fn by_all(&self, is_known: bool) -> Option<Vec<(usize, &Refused)>> {
        let counts = |refused: &&Refused| !(is_known && refused.code == Refusal::BadToken);
        let refused = self.0.iter().enumerate();
        refused.map(|(at, server)| server.refused.as_ref().filter(counts).map(|refused| (at, refused))).collect()
    }

    /// Clears all state after a successful login or a change of the configuration: every server may be tried immediately.
    pub(in crate::agent) fn clear(&mut self) {
        self.0.iter_mut().for_each(|server| *server = Server::default());
    }
}

fn delays() -> ExponentialBackoff {
    let delays = ExponentialBuilder::new().with_min_delay(SHORTEST).with_max_delay(LONGEST_BEFORE_JITTER);
    delays.with_jitter().without_max_times().build()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONGEST: Duration = Duration::from_secs(15 * 60);

    fn refusal(code: Refusal) -> ConnectError {
        ConnectError::Refused(Refused::new(code, "no"))
    }

    fn unreachable() -> ConnectError {
        ConnectError::Silent
    }

    #[tokio::test(start_paused = true)]
    async fn waits_after_refusals_grow_from_seconds_to_a_quarter_of_an_hour() {
        let mut refusals = RetrySchedule::new(1);
        let mut waits = Vec::new();
        for _ in 0..14 {
            assert!(refusals.may_ask(0));
            refusals.failed(0, "a", &refusal(Refusal::BadToken));
            assert!(!refusals.may_ask(0));
            let wait = refusals.wait(|| Duration::from_millis(500));
            waits.push(wait);
            tokio::time::advance(wait).await;
        }
        assert!((SHORTEST..=2 * SHORTEST).contains(&waits[0]), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= LONGEST), "{waits:?}");
        assert!(waits[13] >= LONGEST / 2, "{waits:?}");
        refusals.clear();
        assert!(refusals.may_ask(0));
        refusals.failed(0, "a", &refusal(Refusal::NotAllowed));
        assert!(refusals.wait(|| Duration::ZERO) <= 2 * SHORTEST, "they begin anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_by_one_server_keeps_no_other_from_being_asked() {
        let mut refusals = RetrySchedule::new(2);
        for _ in 0..10 {
            refusals.failed(1, "b", &refusal(Refusal::BadToken));
        }
        refusals.failed(0, "a", &unreachable());
        assert!(refusals.may_ask(0) && !refusals.may_ask(1));
        assert_eq!(refusals.wait(|| Duration::from_secs(2)), Duration::from_secs(2));
        assert!(refusals.by_all(false).is_none(), "one could not be asked");
        assert_eq!(refusals.failures(), format!("a: {}; b: refused (bad_token): no", unreachable()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_asks_for_time_gets_it() {
        let mut refusals = RetrySchedule::new(2);
        let too_many = Refused { retry_after_s: Some(40), ..Refused::new(Refusal::TooMany, "later") };
        refusals.failed(0, "a", &ConnectError::Refused(too_many));
        refusals.failed(1, "b", &unreachable());
        assert!(!refusals.may_ask(0) && refusals.may_ask(1));
        assert_eq!(refusals.wait(|| Duration::from_secs(1)), Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(40)).await;
        assert!(refusals.may_ask(0));
    }

    #[test]
    fn a_token_that_was_accepted_before_is_not_refused_for_good() {
        let mut refusals = RetrySchedule::new(1);
        refusals.failed(0, "a", &refusal(Refusal::BadToken));
        assert!(refusals.by_all(false).is_some() && refusals.by_all(true).is_none());
        refusals.failed(0, "a", &refusal(Refusal::NotAllowed));
        assert!(refusals.by_all(true).is_some(), "what is offered was never accepted");
    }

    #[derive(Debug, Clone, Copy)]
    enum Answer {
        Refuses,
        Unreachable,
        Later(u8),
    }

    fn answers() -> impl Strategy<Value = Vec<(usize, Answer)>> {
        let answer = prop_oneof![Just(Answer::Refuses), Just(Answer::Unreachable), (1_u8..=60).prop_map(Answer::Later)];
        proptest::collection::vec((0_usize..3, answer), 1..60)
    }

    proptest! {
        /// Whatever servers answer, the agent asks again: the wait is bounded, and after it some server may be asked.
        #[test]
        fn an_agent_always_asks_again(answers in answers()) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let mut refusals = RetrySchedule::new(3);
                for (server, answer) in answers {
                    if !refusals.may_ask(server) {
                        continue;
                    }
                    let error = match answer {
                        Answer::Refuses => refusal(Refusal::BadToken),
                        Answer::Unreachable => unreachable(),
                        Answer::Later(seconds) => ConnectError::Refused(Refused {
                            retry_after_s: Some(seconds.into()),
                            ..Refused::new(Refusal::TooMany, "later")
                        }),
                    };
                    refusals.failed(server, "s", &error);
                    let wait = refusals.wait(|| Duration::from_secs(60));
                    assert!(wait <= LONGEST, "{wait:?}");
                    tokio::time::advance(wait).await;
                    assert!((0..3).any(|server| refusals.may_ask(server)));
                }
            });
        }
    }
}
