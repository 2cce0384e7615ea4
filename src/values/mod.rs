//! Small domain types, so that no module passes bare strings around.
//!
//! Each one is validated once, in its constructor. This module imports no other.

mod address;
mod bare;
mod clock;
mod domain;
mod fingerprint;
mod hex;
mod ids;
mod label;
mod reserved;
mod secret;
mod text;

pub use address::{DEFAULT_TUNNEL_PORT, ServerAddress};
pub(crate) use address::{NETWORKS, dns_name, network, read_port, split_host_port};
pub use bare::{NotText, around, bare, text_in, trimmed, unquoted, without_bom};
pub use clock::unix_now;
pub use domain::{Domain, DomainError};
pub use fingerprint::{Fingerprint, FingerprintError};
pub use hex::{digest_in, hex_of};
pub use ids::{InstanceId, LaneId, RequestId, SessionId, TunnelId};
pub use label::{ClientId, LabelError, Name, RESERVED_NAMES};
pub use reserved::is_reserved_for_operator;
pub use secret::Secret;
pub use text::{Escape, escape_line, harmless_line, harmless_text, is_harmful, without_link};
