//! Which of a client's agents has a name, as the others are told.
//!
//! Of several agents of one client that offer a name, the one that was started last has it. The others stand by.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::values::Name;

/// An agent with this capability stays connected when it has lost its last name. One without it is told `replaced`.
///
/// A server with it knows which agent was started last, and keeps a free name for its last owner for a while. An agent
/// that stands by requires it: an older server would let the latest login win.
pub const STANDBY: &str = "standby";

/// The longest host name that is passed on, in characters.
pub const MAX_HOST: usize = 64;

/// Another agent of the same client, for the owner of both to find it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherAgent {
    /// What program it is.
    pub agent: String,
    /// The name of its machine, if it has said one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// From where it is connected.
    pub address: IpAddr,
}

impl std::fmt::Display for OtherAgent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            Some(host) => write!(f, "{} on {host} ({})", self.agent, self.address),
            None => write!(f, "{} at {}", self.agent, self.address),
        }
    }
}

/// A name that an agent offers and does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standby {
    /// The name.
    pub name: Name,
    /// Who has it. Absent: it is free, and kept for its last owner for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<OtherAgent>,
}

/// Returns `text` as a peer's name for its machine may be shown: printable characters of a host name alone, and not too
/// many.
pub fn host_name(text: &str) -> Option<String> {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let host: String = text.chars().filter(is_plain).take(MAX_HOST).collect();
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_short_and_plain() {
        assert_eq!(host_name("desktop.local"), Some("desktop.local".to_owned()));
        assert_eq!(host_name("a\x1b[2J\u{202e}b c"), Some("a2Jbc".to_owned()));
        assert_eq!(host_name(&"x".repeat(1000)).unwrap().len(), MAX_HOST);
        assert_eq!((host_name(""), host_name("\u{202e} \n")), (None, None));
    }

    #[test]
    fn both_sides_are_told_host_and_address() {
        let mut other = OtherAgent {
            agent: "adit 1.0 (linux)".to_owned(),
            host: Some("desktop".to_owned()),
            address: "192.0.2.1".parse().unwrap(),
        };
        assert_eq!(other.to_string(), "adit 1.0 (linux) on desktop (192.0.2.1)");
        other.host = None;
        assert_eq!(other.to_string(), "adit 1.0 (linux) at 192.0.2.1");
    }
}
