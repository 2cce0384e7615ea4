//! What the operator can count on: what the server counts while it works, and the page that shows it.
//!
//! `meter` counts the requests of each service, `list` names every metric, `page` writes them down. A request finds its
//! meter at its service, so counting costs a few atomic operations: no lock, no text, no look-up. What somebody counts
//! already (permits, the registry) is asked when the page is asked for.

mod count;
pub(crate) mod list;
pub(crate) mod meter;

use std::sync::Arc;

use dashmap::DashMap;

use crate::protocol::login::{Hello, Proof, Refusal};
use crate::telemetry::{Histogram, unix_time};
use crate::values::{ClientId, Name};
pub(crate) use count::{Count, Counts};
pub(crate) use meter::{Meter, Outcome, Totals};

/// What a server counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Of all services together, and of requests that came to none.
    pub(crate) totals: Arc<Totals>,
    /// By client and name; bounded by the names that the operator lists.
    pub(crate) services: DashMap<(ClientId, Name), Arc<Meter>>,
    /// By what was shown, and what came of it.
    pub(crate) logins: [Counts<{ LoginResult::WORDS.len() }>; Shown::WORDS.len()],
    /// From an agent's connection to its lane, or its refusal.
    pub(crate) login_time: Histogram,
    pub(crate) lanes_ended: Counts<{ LaneEnd::WORDS.len() }>,
    pub(crate) limits: Counts<{ Limit::WORDS.len() }>,
    /// When the server began, in seconds since 1970.
    pub(crate) started: f64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            totals: Arc::default(),
            services: DashMap::new(),
            logins: Default::default(),
            login_time: Histogram::default(),
            lanes_ended: Counts::default(),
            limits: Counts::default(),
            started: unix_time(),
        }
    }
}

/// A limit that somebody has come up against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// `limits.connections`
    Connections,
    /// `limits.per_ip.connections`
    ConnectionsPerIp,
    /// `limits.per_ip.requests_per_second`, or wrong passwords of a visitor.
    RatePerIp,
    /// A client's requests a second.
    RatePerClient,
    /// Streams: of the server, a client, a tunnel or its lanes.
    Streams,
    /// `limits.per_ip.streams`, or its fair share of all of them.
    StreamsPerIp,
    /// Passwords that wait to be compared, or bodies that are held.
    Access,
    /// Connections on their way to a login, in all or of one address.
    LoginsUnderWay,
    /// Failed logins of one address.
    FailedLogins,
    /// Wrong admin tokens of one address.
    AdminTokens,
    /// `limits.held_heads`, or the part of an address or a client.
    HeldHeads,
}

impl Limit {
    pub(crate) const WORDS: [&'static str; 11] = [
        "connections",
        "connections_per_ip",
        "rate_per_ip",
        "rate_per_client",
        "streams",
        "streams_per_ip",
        "access",
        "logins_under_way",
        "failed_logins",
        "admin_tokens",
        "held_heads",
    ];
}

/// With what an agent came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    Token,
    /// It was here before.
    Ticket,
    /// It wants a further lane.
    Join,
    Invite,
    Nothing,
}

impl Shown {
    pub(crate) const WORDS: [&'static str; 5] = ["token", "ticket", "join", "invite", "nothing"];

    pub(crate) fn by(hello: &Hello) -> Self {
        match &hello.proof {
            _ if hello.join.is_some() => Self::Join,
            Some(Proof::Token(_)) => Self::Token,
            Some(Proof::Ticket(_)) => Self::Ticket,
            Some(Proof::Invite(_)) => Self::Invite,
            None => Self::Nothing,
        }
    }
}

/// What came of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoginResult {
    Ok,
    /// The proof was good, and no more was asked.
    Known,
    Refused(Refusal),
    /// It broke off, or took too long.
    Broken,
}

impl LoginResult {
    pub(crate) const WORDS: [&'static str; 13] = [
        "ok",
        "known",
        "broken",
        "bad_token",
        "bad_invite",
        "clock_skew",
        "name_taken",
        "not_allowed",
        "version",
        "too_many",
        "draining",
        "wrong_node",
        "other",
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Known => "known",
            Self::Broken => "broken",
            Self::Refused(code) => code.word(),
        }
    }
}

/// Why a lane has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaneEnd {
    /// The connection broke, or the agent closed it.
    Connection,
    Protocol,
    Silent,
    CameBack,
    Revoked,
    Disconnected,
    Spare,
    Drained,
    Cut,
}

impl LaneEnd {
    pub(crate) const WORDS: [&'static str; 9] =
        ["connection", "protocol", "silent", "came_back", "revoked", "disconnected", "spare", "drained", "cut"];
}

impl Metrics {
    /// The meter of a service. It stays when its agent goes: the agent will be back.
    pub(crate) fn meter(&self, client: &ClientId, name: &Name) -> Arc<Meter> {
        let key = (client.clone(), name.clone());
        let new = || Arc::new(Meter::new(client.clone(), name.clone(), Arc::clone(&self.totals)));
        Arc::clone(&self.services.entry(key).or_insert_with(new))
    }

    /// Forgets services that nobody offers and nobody may offer any more.
    pub(crate) fn forget(&self, may_claim: impl Fn(&ClientId, &Name) -> bool) {
        self.services.retain(|(client, name), meter| Arc::strong_count(meter) > 1 || may_claim(client, name));
    }

    /// Somebody has come up against a limit.
    pub(crate) fn limited(&self, limit: Limit) {
        self.limits.at(limit as usize).one();
    }

    /// A login has ended, one way or the other.
    pub(crate) fn login(&self, shown: Shown, result: LoginResult) {
        let word = result.word();
        let at = LoginResult::WORDS.iter().position(|known| *known == word).unwrap_or(LoginResult::WORDS.len() - 1);
        self.logins[shown as usize].at(at).one();
    }

    /// A lane has ended.
    pub(crate) fn lane_ended(&self, why: LaneEnd) {
        self.lanes_ended.at(why as usize).one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_word() {
        assert_eq!(Limit::WORDS[Limit::AdminTokens as usize], "admin_tokens");
        assert_eq!(Limit::WORDS[Limit::Streams as usize], "streams");
        assert_eq!(LaneEnd::WORDS[LaneEnd::Cut as usize], "cut");
        assert_eq!(LaneEnd::WORDS[LaneEnd::Revoked as usize], "revoked");
        assert_eq!(Shown::WORDS[Shown::Nothing as usize], "nothing");
        for refusal in [Refusal::BadToken, Refusal::BadInvite, Refusal::ClockSkew, Refusal::NameTaken] {
            assert!(LoginResult::WORDS.contains(&LoginResult::Refused(refusal).word()));
        }
        for refusal in [Refusal::NotAllowed, Refusal::Version, Refusal::TooMany, Refusal::Draining, Refusal::WrongNode]
        {
            assert!(LoginResult::WORDS.contains(&LoginResult::Refused(refusal).word()));
        }
    }

    #[test]
    fn a_service_keeps_its_count_until_nobody_may_offer_it() {
        let metrics = Metrics::default();
        let (alice, blog) = ("alice".parse().unwrap(), "blog".parse().unwrap());
        let meter = metrics.meter(&alice, &blog);
        assert!(Arc::ptr_eq(&meter, &metrics.meter(&alice, &blog)), "it came back");
        metrics.forget(|_, _| false);
        assert_eq!(metrics.services.len(), 1, "it is offered still");
        drop(meter);
        metrics.forget(|_, _| true);
        assert_eq!(metrics.services.len(), 1, "its agent may come back");
        metrics.forget(|_, _| false);
        assert_eq!(metrics.services.len(), 0);
    }
}
