//! The login: one [`Hello`], one [`Answer`], before the multiplexer sees a single byte.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::WireError;
use super::access::AccessPolicy;
use super::standby::{OtherAgent, Standby};
use crate::values::{ClientId, Domain, InstanceId, LaneId, Name, Secret, TunnelId};

/// How far the agent's clock may be off, in seconds, before the login is refused with [`Refusal::ClockSkew`].
pub const MAX_CLOCK_SKEW_S: u64 = 300;

/// The most services one agent may offer.
pub const MAX_SERVICES: usize = 64;

/// What a service carries. The number is what a preface says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum ServiceKind {
    /// HTTP requests, as exchanges.
    Http = 1,
    /// Connections to a public port of the service's own, byte for byte.
    Tcp = 2,
    /// TLS connections to the port of the HTTPS listener, byte for byte: only the application can decrypt them.
    Tls = 3,
}

impl ServiceKind {
    /// `http`, `tcp` or `tls`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }

    /// The kind a byte of a preface stands for.
    pub(super) fn from_byte(byte: u8) -> Result<Self, WireError> {
        match byte {
            1 => Ok(Self::Http),
            2 => Ok(Self::Tcp),
            3 => Ok(Self::Tls),
            _ => Err(WireError::Invalid("kind of service")),
        }
    }
}

/// What happens on path routes to the name before the paths of a service, `/alice`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathPrefix {
    /// The server removes it from requests and adds it to responses.
    #[default]
    Strip,
    /// The server removes it from requests. The application adds it to responses: it reads `X-Forwarded-Prefix`.
    Known,
    /// It stays: the application serves its paths below it.
    Keep,
}

impl PathPrefix {
    /// Whether it is the default.
    pub fn is_strip(&self) -> bool {
        *self == Self::Strip
    }
}

/// One service as the agent offers it. Where it leads is the agent's own business.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceOffer {
    /// The public name it claims.
    pub name: Name,
    /// What it carries.
    pub kind: ServiceKind,
    /// Which public port a `tcp` service wants; absent: any that the client may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_port: Option<u16>,
    /// Whether it also answers for every host below its name: `*.alice.<domain>`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wildcard: bool,
    /// Domains under which it can be reached beside its name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<Domain>,
    /// Agents of one client that offer a name in the same group share its visitors; without one, the newest has them
    /// all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Name>,
    /// Which visitors get in.
    #[serde(default, skip_serializing_if = "AccessPolicy::is_open")]
    pub access: AccessPolicy,
    /// Lower limits for its visitors than the server's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<ServiceLimits>,
    /// What happens to its name on path routes.
    #[serde(default, skip_serializing_if = "PathPrefix::is_strip")]
    pub path_prefix: PathPrefix,
}

/// Limits of one service, beside those of the server. As in [`AccessPolicy`], an unknown limit makes the whole message
/// unreadable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceLimits {
    /// Requests of one address a second, in the long run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<NonZeroU32>,
    /// Requests of one address at once before the rate counts; absent: as many as in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<NonZeroU32>,
    /// Requests and connections of all visitors that may be open at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<NonZeroU32>,
}

impl ServiceOffer {
    /// A plain offer of `name`: no port of its own, no domains, no group, open to everybody.
    pub fn new(name: Name, kind: ServiceKind) -> Self {
        let (domains, access) = (Vec::new(), AccessPolicy::default());
        let (limits, path_prefix) = (None, PathPrefix::Strip);
        Self { name, kind, remote_port: None, wildcard: false, domains, group: None, access, limits, path_prefix }
    }
}

/// The most domains of one service.
pub const MAX_DOMAINS: usize = 32;

/// What program the agent is; for logs only.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgentInfo {
    /// `adit`, or another implementation.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The operating system it runs on.
    pub os: String,
    /// The host name of its machine, for other agents of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// With what the agent proves who it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// The client's token.
    Token(Secret),
    /// What an earlier [`Welcome`] gave, or a later control message.
    Ticket(Secret),
    /// A code that the operator gave out (`adit token invite`). It buys a token, once; no services are offered with it.
    Invite(Secret),
}

/// For a lane that joins a tunnel instead of making one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Join {
    /// The tunnel it joins.
    pub tunnel_id: TunnelId,
    /// The secret from that tunnel's [`Welcome`].
    pub lane_secret: Secret,
}

/// What an agent supports of the protocol, and what it requires of the server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Compatibility {
    /// [`super::VERSION`] of the agent.
    pub protocol: u32,
    /// Capabilities of the agent beyond the protocol's first version.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Capabilities that the agent requires; a server that lacks one refuses the login. They include what the services
    /// require: [`super::requirements::required_by`].
    #[serde(default)]
    pub required: Vec<String>,
}

/// The agent's first message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// Version and capabilities of the agent.
    #[serde(flatten)]
    pub compatibility: Compatibility,
    /// The tenant.
    pub client_id: ClientId,
    /// Random at the agent's start, kept over reconnects.
    pub instance_id: InstanceId,
    /// Token, ticket or invitation. Absent only with `join`.
    #[serde(flatten)]
    pub proof: Option<Proof>,
    /// A ticket that is no longer valid as proof; it carries the number of the agent's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Secret>,
    /// Names for which the agent stands by, because an agent that was started later had them last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub standby: Vec<Name>,
    /// The agent's clock, in seconds since 1970.
    pub timestamp: u64,
    /// What program the agent is.
    pub agent: AgentInfo,
    /// What it offers. Nothing at all only asks whether the proof is good: the answer is [`Answer::Known`], and no tunnel.
    pub services: Vec<ServiceOffer>,
    /// Present if this connection is a further lane of a tunnel that exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<Join>,
}

/// One service as visitors reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicService {
    /// The public name.
    pub name: Name,
    /// Where it can be opened, most useful first.
    pub public_urls: Vec<String>,
    /// Another agent of the same client has had the name until now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub taken_over: bool,
    /// The agent that had the name before, if it was another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_from: Option<OtherAgent>,
}

/// The lane that a login made, and how further ones join the tunnel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LaneGrant {
    /// The number of this lane.
    pub lane_id: LaneId,
    /// The secret with which further lanes join the tunnel.
    pub lane_secret: Secret,
    /// The address that further lanes dial; absent: the address of this lane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane_address: Option<String>,
}

/// Limits and intervals that apply to a lane.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct LaneTerms {
    /// Seconds between heartbeats; three missed ones end the lane.
    pub heartbeat_s: f64,
    /// The most service streams that the server opens on this lane at once.
    pub max_streams: usize,
    /// Seconds that the agent gives the local application to accept a connection.
    pub connect_timeout_s: f64,
}

/// The login succeeded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Welcome {
    /// The tunnel that this connection made or joined.
    pub tunnel_id: TunnelId,
    /// The lane that this connection is.
    #[serde(flatten)]
    pub lane: LaneGrant,
    /// Which server this is, among several.
    pub node_id: String,
    /// Lets the agent log in again without its token being checked, for a while.
    pub ticket: Secret,
    /// What was claimed, as visitors reach it.
    pub services: Vec<PublicService>,
    /// The claimed names that another agent has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub standby: Vec<Standby>,
    /// Limits and intervals of the lane.
    #[serde(flatten)]
    pub terms: LaneTerms,
    /// What the server can do beyond the protocol's first version.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// The server's version, for logs.
    pub server_version: String,
}

/// The proof was good, and no tunnel was asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Known {
    /// Whose proof it was.
    pub client_id: ClientId,
    /// The token that an invitation has bought. Told this once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// The names that the client may claim.
    #[serde(default)]
    pub names: Vec<Name>,
}

/// Why a login was refused: a stable word, and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Wrong token, unknown client, expired token or ticket: one answer for all, at the same cost.
    BadToken,
    /// No such invitation: never made, used, or too old. The message says which only if the code is authentic.
    BadInvite,
    /// The agent's clock is off by more than [`MAX_CLOCK_SKEW_S`].
    ClockSkew,
    /// Another client holds the name, or an agent of the same client that was started later.
    NameTaken,
    /// The client may not claim that name or offer that service.
    NotAllowed,
    /// No common protocol version, or a required capability is missing.
    Version,
    /// Too many tunnels, lanes or failed logins.
    TooMany,
    /// The server is shutting down.
    Draining,
    /// This node does not hold the tunnel that the lane wants to join.
    WrongNode,
    /// A code of a later version.
    #[serde(other)]
    Other,
}

impl Refusal {
    /// Whether trying again later can help without anyone changing anything.
    pub fn may_retry(self) -> bool {
        match self {
            Self::BadToken | Self::BadInvite | Self::NameTaken | Self::NotAllowed | Self::Version => false,
            // A clock is often set by the network soon after start.
            Self::ClockSkew | Self::TooMany | Self::Draining | Self::WrongNode | Self::Other => true,
        }
    }

    /// The word that crosses the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::BadToken => "bad_token",
            Self::BadInvite => "bad_invite",
            Self::ClockSkew => "clock_skew",
            Self::NameTaken => "name_taken",
            Self::NotAllowed => "not_allowed",
            Self::Version => "version",
            Self::TooMany => "too_many",
            Self::Draining => "draining",
            Self::WrongNode => "wrong_node",
            Self::Other => "other",
        }
    }
}

/// The login failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refused {
    /// The stable word.
    pub code: Refusal,
    /// What is wrong and what to do, for a person.
    pub message: String,
    /// When to try again, in seconds, if the server knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
}

impl Refused {
    /// A refusal that says nothing of when to try again.
    pub fn new(code: Refusal, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_s: None }
    }
}

/// The server's only words before the multiplexer starts.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "one of these exists for each login")]
pub enum Answer {
    /// The login succeeded.
    Welcome(Welcome),
    /// The proof is good, and that was the question. The connection ends.
    Known(Known),
    /// The login failed, and the connection ends.
    Refused(Refused),
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn hello() -> Value {
        json!({
            "protocol": 1,
            "client_id": "alice",
            "instance_id": "000102030405060708090a0b0c0d0e0f",
            "timestamp": 1_800_000_000_u64,
            "agent": { "name": "adit", "version": "1.0.0", "os": "linux" },
            "services": [{ "name": "blog", "kind": "http" }],
        })
    }

    fn with(mut value: Value, more: Value) -> Value {
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        value
    }

    fn read(value: &Value) -> Hello {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn a_hello_comes_back_as_it_was() {
        let join = json!({ "tunnel_id": "ffffffffffffffffffffffffffffffff", "lane_secret": "s" });
        let lists = json!({ "capabilities": ["a"], "required": [] });
        for proof in [json!({ "token": "adit_x" }), json!({ "ticket": "t" }), json!({ "join": join })] {
            let wire = with(with(hello(), lists.clone()), proof);
            assert_eq!(serde_json::to_value(read(&wire)).unwrap(), wire);
        }
    }

    #[test]
    fn the_proof_is_a_token_a_ticket_or_nothing() {
        let token = read(&with(hello(), json!({ "token": "adit_x" })));
        assert!(matches!(token.proof, Some(Proof::Token(secret)) if secret.expose() == "adit_x"));
        let ticket = read(&with(hello(), json!({ "ticket": "t", "later": 1 })));
        assert!(matches!(ticket.proof, Some(Proof::Ticket(secret)) if secret.expose() == "t"));
        assert!(read(&hello()).proof.is_none());
        assert!(read(&with(hello(), json!({ "token": 7 }))).proof.is_none(), "no proof, so no login");
    }

    #[test]
    fn what_a_later_version_adds_is_ignored_and_what_is_missing_is_not() {
        let more = json!({ "zone": "eu", "limits": { "deep": [1, null] }, "token": "x" });
        let hello_with_more = read(&with(hello(), more));
        assert_eq!(hello_with_more.services, read(&hello()).services);
        assert!(hello_with_more.compatibility.capabilities.is_empty() && hello_with_more.join.is_none());
        for key in ["protocol", "client_id", "instance_id", "timestamp", "agent", "services"] {
            let mut short = hello();
            short.as_object_mut().unwrap().remove(key);
            let error = serde_json::from_value::<Hello>(short).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        for (key, wrong) in [("client_id", json!("Alice")), ("instance_id", json!("12")), ("protocol", json!(-1))] {
            assert!(serde_json::from_value::<Hello>(with(hello(), json!({ key: wrong }))).is_err(), "{key}");
        }
    }

    #[test]
    fn an_answer_comes_back_as_it_was() {
        let welcome = json!({ "welcome": {
            "tunnel_id": "000102030405060708090a0b0c0d0e0f",
            "lane_id": 7,
            "lane_secret": "s",
            "lane_address": "192.0.2.1:8080",
            "node_id": "n1",
            "ticket": "t",
            "services": [{ "name": "blog", "public_urls": ["https://blog.example.com/"] }],
            "heartbeat_s": 10.0,
            "max_streams": 1000,
            "connect_timeout_s": 0.5,
            "capabilities": [],
            "server_version": "1.0.0",
        }});
        let refused = json!({ "refused": { "code": "too_many", "message": "later", "retry_after_s": 5 } });
        for wire in [welcome.clone(), refused.clone()] {
            let answer: Answer = serde_json::from_value(wire.clone()).unwrap();
            assert_eq!(serde_json::to_value(answer).unwrap(), wire);
        }
        for (kind, mut wire) in [("welcome", welcome), ("refused", refused)] {
            wire[kind]["added"] = json!({ "later": [1] });
            for optional in ["lane_address", "capabilities", "retry_after_s"] {
                wire[kind].as_object_mut().unwrap().remove(optional);
            }
            assert!(serde_json::from_value::<Answer>(wire).is_ok(), "{kind}");
        }
    }

    #[test]
    fn a_code_is_its_word_and_an_unknown_one_may_be_tried_again() {
        use Refusal::{
            BadInvite, BadToken, ClockSkew, Draining, NameTaken, NotAllowed, Other, TooMany, Version, WrongNode,
        };
        for code in
            [BadToken, BadInvite, ClockSkew, NameTaken, NotAllowed, Version, TooMany, Draining, WrongNode, Other]
        {
            assert_eq!(serde_json::to_value(code).unwrap(), json!(code.word()));
            assert_eq!(serde_json::from_value::<Refusal>(json!(code.word())).unwrap(), code);
        }
        let refused = json!({ "refused": { "code": "moon_phase", "message": "wait" } });
        let Answer::Refused(refused) = serde_json::from_value(refused).unwrap() else { panic!("not a refusal") };
        assert_eq!(refused.code, Other);
        assert!(refused.code.may_retry());
    }

    #[test]
    fn nothing_secret_prints() {
        let hello = read(&with(hello(), json!({ "token": "hunter2" })));
        assert!(!format!("{hello:?}").contains("hunter2"));
    }
}
