//! The login: one [`Hello`], one [`Answer`], before the multiplexer sees a single byte.

use serde::{Deserialize, Serialize};

use crate::values::{ClientId, InstanceId, LaneId, Name, Secret, TunnelId};

/// How far the agent's clock may be off, in seconds, before the login is refused with [`Refusal::ClockSkew`].
pub const MAX_CLOCK_SKEW_S: u64 = 300;

/// The most services one agent may offer.
pub const MAX_SERVICES: usize = 64;

/// What a service carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceKind {
    /// HTTP requests, as exchanges.
    Http,
}

/// One service as the agent offers it. Where it leads is the agent's own business.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceOffer {
    /// The public name it claims.
    pub name: Name,
    /// What it carries.
    pub kind: ServiceKind,
}

/// What program the agent is; for logs only.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgentInfo {
    /// `adit`, or another implementation.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The operating system it runs on.
    pub os: String,
}

/// With what the agent proves who it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// The client's token.
    Token(Secret),
    /// What an earlier [`Welcome`] gave, or a later control message.
    Ticket(Secret),
}

/// For a lane that joins a tunnel instead of making one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Join {
    /// The tunnel it joins.
    pub tunnel_id: TunnelId,
    /// The secret from that tunnel's [`Welcome`].
    pub lane_secret: Secret,
}

/// The agent's first words.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// [`super::VERSION`] of the agent.
    pub protocol: u32,
    /// What the agent can do beyond the protocol's first version.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Capabilities without which the agent will not go on; a server that lacks one refuses.
    #[serde(default)]
    pub required: Vec<String>,
    /// The tenant.
    pub client_id: ClientId,
    /// Random at the agent's start, kept over reconnects.
    pub instance_id: InstanceId,
    /// Token or ticket. Absent only with `join`.
    #[serde(flatten)]
    pub proof: Option<Proof>,
    /// The agent's clock, in seconds since 1970.
    pub timestamp: u64,
    /// What program the agent is.
    pub agent: AgentInfo,
    /// What it offers.
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
}

/// The login succeeded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Welcome {
    /// The tunnel this connection made or joined.
    pub tunnel_id: TunnelId,
    /// The number of this lane.
    pub lane_id: LaneId,
    /// With it further lanes join the tunnel.
    pub lane_secret: Secret,
    /// Where further lanes dial; absent: where this one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane_address: Option<String>,
    /// Which server this is, among several.
    pub node_id: String,
    /// Lets the agent log in again without its token being checked, for a while.
    pub ticket: Secret,
    /// What was claimed, as visitors reach it.
    pub services: Vec<PublicService>,
    /// Seconds between heartbeats; three missed ones end the lane.
    pub heartbeat_s: f64,
    /// The most service streams the server opens on this lane at once.
    pub max_streams: usize,
    /// The largest head, in bytes, that either side sends.
    pub max_head: usize,
    /// Seconds the agent gives the local application to accept a connection.
    pub connect_timeout_s: f64,
    /// What the server can do beyond the protocol's first version.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// The server's version, for logs.
    pub server_version: String,
}

/// Why a login was refused: a stable word, and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Wrong token, unknown client, expired token or ticket: one answer for all, at the same cost.
    BadToken,
    /// The agent's clock is off by more than [`MAX_CLOCK_SKEW_S`].
    ClockSkew,
    /// Another client holds the name.
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
            Self::BadToken | Self::NameTaken | Self::NotAllowed | Self::Version => false,
            // A clock is often set by the network soon after start.
            Self::ClockSkew | Self::TooMany | Self::Draining | Self::WrongNode | Self::Other => true,
        }
    }

    /// The word that crosses the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::BadToken => "bad_token",
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

/// The server's only words before the multiplexer starts.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "one of these exists for each login")]
pub enum Answer {
    /// The login succeeded.
    Welcome(Welcome),
    /// The login failed, and the connection ends.
    Refused(Refused),
}
