//! Describes which of a client's agents has a name, for the other agents.
//!
//! Of several agents of one client that offer a name, the one that was started last has it. The others stand by.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::values::Name;

/// The capability for standby. An agent with it stays connected when it has lost its last name; other agents receive
/// `replaced`.
///
/// A server with it knows which agent was started last, and reserves a free name for its last owner for a while. A standby
/// agent requires it, because an older server gives a name to the latest login.
pub const STANDBY: &str = "standby";

/// The longest host name that is forwarded, in characters.
pub const MAX_HOST: usize = 64;

/// Another agent of the same client, described so that their owner can find it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherAgent {
    /// Its program, version and operating system.
    pub agent: String,
    /// The host name of its machine, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The address from which it is connected.
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

/// A name that an agent offers but does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standby {
    /// The name.
    pub name: Name,
    /// The agent that has it; `None` if the name is free and reserved for its last owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<OtherAgent>,
}

/// Returns a peer's host name in a form that is safe to show: only characters of host names, and limited in length.
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
