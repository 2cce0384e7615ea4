//! Domains that a client brings along.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest host name, in characters (RFC 1035, section 2.3.4).
const MAX: usize = 253;

/// Why a text is not a domain. The text itself is repeated, so that the message can stand alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// Not a host name of at least two labels.
    #[error("`{0}` is not a domain; write one like blog.alice.example, or *.alice.example for all below it")]
    Form(String),
    /// An address is nobody's domain.
    #[error("`{0}` is an address, not a domain")]
    Address(String),
}

/// A host name in lower case, without a final dot, under which a service can be reached beside its name:
/// `blog.alice.example`. With `*.` in front it stands for every host below, at any depth, but not for itself.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(Box<str>);

impl Domain {
    /// Checks `text`: at least two DNS labels (RFC 1123, section 2.1), perhaps behind `*.`.
    ///
    /// # Errors
    /// A [`DomainError`] that says what a domain looks like.
    pub fn new(text: &str) -> Result<Self, DomainError> {
        let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let host = lower.strip_prefix("*.").unwrap_or(&lower);
        if host.parse::<std::net::IpAddr>().is_ok() {
            return Err(DomainError::Address(text.chars().take(80).collect()));
        }
        let is_label = |label: &str| {
            let within = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            (1..=63).contains(&label.len())
                && label.bytes().all(within)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if lower.len() > MAX || !host.contains('.') || !host.split('.').all(is_label) {
            return Err(DomainError::Form(text.chars().take(80).collect()));
        }
        Ok(Self(lower.into()))
    }

    /// The domain as text, with its `*.` if it has one.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host, or what all its hosts are below: without the `*.`.
    pub fn host(&self) -> &str {
        self.0.strip_prefix("*.").unwrap_or(&self.0)
    }

    /// Whether it stands for the hosts below it.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }

    /// Whether this is `parent` or something below it. `parent` is in lower case, without a final dot.
    pub fn is_within(&self, parent: &str) -> bool {
        self.host().strip_suffix(parent).is_some_and(|front| front.is_empty() || front.ends_with('.'))
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Borrow<str> for Domain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Domain {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        Self::new(text)
    }
}

impl TryFrom<String> for Domain {
    type Error = DomainError;

    fn try_from(text: String) -> Result<Self, DomainError> {
        Self::new(&text)
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> Self {
        domain.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_a_host_name_or_all_below_one() {
        let domain = Domain::new("Blog.Alice.Example.").unwrap();
        assert_eq!(
            (domain.as_str(), domain.host(), domain.is_wildcard()),
            (domain.host(), "blog.alice.example", false)
        );
        let below = Domain::new("*.alice.example").unwrap();
        assert_eq!((below.as_str(), below.host(), below.is_wildcard()), ("*.alice.example", "alice.example", true));
        let long = format!("{}.example", "x".repeat(64));
        for bad in
            ["", "alice", "*.alice", "*", "a..b", "-a.b", "a_b.c", "a.b:80", "https://a.b", "é.b", "a.*.b", &long]
        {
            assert!(matches!(Domain::new(bad), Err(DomainError::Form(_))), "{bad}");
        }
        assert!(matches!(Domain::new("192.0.2.1"), Err(DomainError::Address(_))));
    }

    #[test]
    fn within_means_at_it_or_below_it() {
        let within = |text: &str| Domain::new(text).unwrap().is_within("tunnel.example");
        assert!(within("tunnel.example") && within("a.tunnel.example") && within("*.tunnel.example"));
        assert!(!within("eviltunnel.example") && !within("tunnel.example.org"));
    }
}
