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

mod address;
mod admin;
mod agent;
mod check;
mod clients;
mod draft;
mod edit;
mod error;
mod log;
mod public;
mod raw;
mod reference;
mod renewed;
#[cfg(test)]
mod samples;
mod saved;
mod secret;
mod server;
mod service;
mod suggestion;
mod table;
mod traces;

/// A value of a flag, as the configuration library holds it.
pub use ::config::ValueKind;
pub use address::{DEFAULT_TUNNEL_PORT, LocalScheme, LocalUrl, Place, ServerAddress};
pub use admin::{AdminConfig, open_admin_warning};
pub use agent::{AgentConfig, DEFAULT_AGENT_FILE, Trust};
pub use check::{Checked, Kind, Looks, check, check_with, shared_origin_warning};
pub use clients::{
    Claim, ClientEntry, ClientLimits, ClientsFile, InviteEntry, PreviousToken, invite_key, port_range, port_text,
};
pub use draft::{ClientDraft, EntryDraft, InviteDraft};
pub use edit::{
    ClientChange, EditError, Listing, NewClient, NewInvite, RedeemError, Redeemed, Replaced, add_client, add_invite,
    begin_clients_file, listing, look_at_beginning, redeem_invite, replace_invite, revoke_client, revoke_invite,
    rotate_token, set_client, was_written_by_command,
};
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
