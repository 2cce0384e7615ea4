//! What the operator and the self-hoster wrote, checked and complete. This room imports `values`, `files`, and the words
//! it shares with `protocol` and `routing`.
//!
//! A configuration is read in two steps. `raw` merges the layers (file < environment < flags) into one tree of values
//! and `table` walks over it; `server`, `agent` and `clients` take their values out of that walk, one by one, each with
//! its default and its limits. A mistake does not end the walk: it is written down with its key path, and so is every
//! key that nobody took. So all problems come at once ([`ConfigErrors`]), and afterwards nothing is missing.
//!
//! - `error`: the problems and how they print
//! - `raw`: layers; [`Environment`] and [`Flags`]
//! - `table`: the walk, unknown keys; `suggestion`: what they were meant to be
//! - `reference`: what the walk says of each key, for documents
//! - `address`: hosts and ports; `secret`: files that hold one
//! - `server` (with `public`, `admin` and `traces`), `agent` (with `service`), `log`, `clients`: the resolved files
//! - `renewed`: what of `server.toml` counts at once when it is read again
//! - `saved`: the login that `adit login` has kept
//! - `edit`: changing the clients file without disturbing what else is in it
//! - `draft`: a client or an invitation that somebody asks for, held against the same rules
//! - `check`: `adit check`

pub(crate) mod address;
pub(crate) mod admin;
pub(crate) mod agent;
pub(crate) mod check;
pub(crate) mod error;
pub(crate) mod log;
pub(crate) mod public;
pub(crate) mod raw;
pub(crate) mod reference;
pub(crate) mod renewed;
#[cfg(test)]
pub(crate) mod samples;
pub(crate) mod saved;
pub(crate) mod secret;
pub(crate) mod server;
pub(crate) mod service;
pub(crate) mod suggestion;
pub(crate) mod table;
pub(crate) mod traces;

/// A value of a flag, as the configuration library holds it.
pub use ::config::ValueKind;
pub use address::{DEFAULT_TUNNEL_PORT, LocalScheme, LocalUrl, Place, ServerAddress};
pub use admin::{AdminConfig, open_admin_warning};
pub use agent::{AgentConfig, DEFAULT_AGENT_FILE, Trust};
pub use check::{Checked, Kind, Looks, check, check_with, shared_origin_warning};
pub use error::{ConfigErrors, Problem};
pub use log::{LOG_LEVELS, LogConfig, LogFile, LogFormat, log_level};
pub use public::PublicConfig;
pub use raw::{Environment, Flags, TOKEN_VARIABLE};
pub use reference::{KeyFacts, every_key};
pub use renewed::Renewed;
pub use saved::SavedLogin;
pub use server::{
    DEFAULT_SERVER_FILE, LimitConfig, OwnCertificate, PerIpLimits, PerTunnelLimits, ServerConfig, TimeoutConfig,
    TlsConfig, TunnelConfig,
};
pub use service::{HeaderCondition, HeaderRules, HostHeader, LocalTrust, ProxyProtocol, Rule, Service};
pub use traces::{Ratio, TracesConfig};
