//! The metrics of the server.
//!
//! `meter` counts the requests of each service, `list` names every metric; the admin port renders the page. A request finds
//! its meter at its service, so that counting costs a few relaxed atomic operations: no lock, no allocation, no look-up.
//! Figures that another component has anyway (permits, the registry) are read when the page is rendered.
//!
//! Counters and histograms are the server's own types, and `prometheus-client` only encodes the page. Its `Histogram` takes a
//! lock for each observation, its `Family` a lock and a hash of the labels for each access, and its `Counter` is behind one
//! more pointer; each would add work to every request.

mod count;
pub(crate) mod failure_code;
pub(crate) mod list;
pub(crate) mod meter;

use std::sync::Arc;

use dashmap::DashMap;

use crate::protocol::login::{Hello, Proof, Refusal};
use crate::telemetry::{Histogram, unix_time};
use crate::values::{ClientId, Name};
pub(crate) use count::{Count, Counts};
pub(crate) use meter::{Meter, Outcome, Totals};

/// The counters of a server.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// The totals of all services, including requests that reached none.
    pub(crate) totals: Arc<Totals>,
    /// The meters by client and service name; bounded by the names that the operator lists.
    pub(crate) services: DashMap<(ClientId, Name), Arc<Meter>>,
    /// Logins by method and result.
    pub(crate) logins: [Counts<{ LoginResult::WORDS.len() }>; LoginMethod::WORDS.len()],
    /// From accepting an agent's connection to its first lane or its refusal.
    pub(crate) login_time: Histogram,
    pub(crate) lanes_ended: Counts<{ LaneEnd::WORDS.len() }>,
    pub(crate) limits: Counts<{ Limit::WORDS.len() }>,
    /// The start of the server, in seconds since 1970 UTC.
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

/// A limit that a visitor, an agent or an operator's tool has exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// `limits.connections`
    Connections,
    /// `limits.per_ip.connections`
    ConnectionsPerIp,
    /// `limits.per_ip.requests_per_second`, or wrong passwords of a visitor.
    RatePerIp,
    /// The requests per second of a client.
    RatePerClient,
    /// The streams of the server, a client, a tunnel or its lanes.
    Streams,
    /// `limits.per_ip.streams`, or its fair share of all of them.
    StreamsPerIp,
    /// Password checks that wait, or held request bodies.
    Access,
    /// Logins in progress, in total or of one address.
    LoginsUnderWay,
    /// Failed logins of one address.
    FailedLogins,
    /// Wrong admin tokens of one address.
    AdminTokens,
    /// `limits.held_heads`, or the share of an address or a client.
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

/// What an agent logs in with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoginMethod {
    Token,
    /// The agent reconnects.
    Ticket,
    /// The agent opens a further lane.
    Join,
    Invite,
    Nothing,
}

impl LoginMethod {
    pub(crate) const WORDS: [&'static str; 5] = ["token", "ticket", "join", "invite", "nothing"];

    /// Returns what `hello` logs in with.
    pub(crate) fn of(hello: &Hello) -> Self {
        match &hello.proof {
            _ if hello.join.is_some() => Self::Join,
            Some(Proof::Token(_)) => Self::Token,
            Some(Proof::Ticket(_)) => Self::Ticket,
            Some(Proof::Invite(_)) => Self::Invite,
            None => Self::Nothing,
        }
    }
}

/// The result of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoginResult {
    Ok,
    /// The credential was valid, and the agent requested nothing else.
    Known,
    Refused(Refusal),
    /// The connection closed, or the login timed out.
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

/// Why a lane ended.
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
    /// Returns the meter of a service. It outlives the agent's connection, so that a reconnect continues to count.
    pub(crate) fn meter(&self, client: &ClientId, name: &Name) -> Arc<Meter> {
        let key = (client.clone(), name.clone());
        let new = || Arc::new(Meter::new(client.clone(), name.clone(), Arc::clone(&self.totals)));
        Arc::clone(&self.services.entry(key).or_insert_with(new))
    }

    /// Removes the meters of services that no agent offers and, according to `may_claim`, none may offer any more.
    pub(crate) fn forget(&self, may_claim: impl Fn(&ClientId, &Name) -> bool) {
        self.services.retain(|(client, name), meter| Arc::strong_count(meter) > 1 || may_claim(client, name));
    }

    /// Counts an exceeded limit.
    pub(crate) fn limited(&self, limit: Limit) {
        self.limits.at(limit as usize).one();
    }

    /// Counts a finished login.
    pub(crate) fn login(&self, method: LoginMethod, result: LoginResult) {
        let word = result.word();
        let at = LoginResult::WORDS.iter().position(|known| *known == word).unwrap_or(LoginResult::WORDS.len() - 1);
        self.logins[method as usize].at(at).one();
    }

    /// Counts an ended lane.
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
        assert_eq!(LoginMethod::WORDS[LoginMethod::Nothing as usize], "nothing");
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
