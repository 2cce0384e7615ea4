//! Which visitors get to a service, as the agent tells the server. The server decides before it opens a stream.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::values::{Fingerprint, Secret};

/// Conditions for visitors of one service; all that are set must hold. Without any, everybody gets in.
///
/// An unknown condition makes the whole message unreadable, because ignoring it would admit every visitor. A new condition
/// also needs a word in [`super::requirements`], for servers older than this rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessPolicy {
    /// Networks of visitors who may come; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<IpNet>,
    /// Networks of visitors who may not, whatever else holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<IpNet>,
    /// Who may log in with a password (RFC 7617); empty: nobody has to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub basic_auth: Vec<BasicUser>,
    /// A field that must be there with a secret in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<SharedHeader>,
    /// A signature that the body must bear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
    /// Whether a CORS preflight gets in without password and header: browsers send it without credentials.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub preflight: bool,
}

impl AccessPolicy {
    /// Whether everybody gets in.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it asks only for addresses, as services that are not HTTP can have it.
    pub fn is_for_addresses(&self) -> bool {
        self.basic_auth.is_empty() && self.header.is_none() && self.webhook.is_none() && !self.preflight
    }
}

/// Somebody with a password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BasicUser {
    /// The name; without a colon.
    pub user: String,
    /// The argon2id hash of the password, in PHC form.
    pub hash: String,
}

impl std::fmt::Debug for BasicUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BasicUser").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A field that is known to those who may come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedHeader {
    /// The field's name.
    pub name: String,
    /// SHA-256 of the value: the server need not know more.
    pub digest: Fingerprint,
}

/// How senders of webhooks sign what they send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WebhookScheme {
    /// `X-Hub-Signature-256: sha256=…` over the body. Without a time: a request that was seen can be sent again.
    Github,
    /// `Stripe-Signature: t=…,v1=…` over time, dot and body.
    Stripe,
}

impl WebhookScheme {
    /// `github` or `stripe`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Stripe => "stripe",
        }
    }
}

/// A signature by HMAC-SHA256 that the body of each request must bear.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where the signature is and over what it is made.
    pub scheme: WebhookScheme,
    /// The key, shared with the sender.
    pub secret: Secret,
    /// How old a signature with a time may be, in seconds.
    pub tolerance_s: u64,
    /// The largest body that is looked at, in bytes: it is held until its signature is known to be right.
    pub max_body: usize,
}

impl PartialEq for Webhook {
    /// For noticing that a configuration has changed; never asked about what a visitor has sent.
    fn eq(&self, other: &Self) -> bool {
        let facts = |webhook: &Self| (webhook.scheme, webhook.tolerance_s, webhook.max_body);
        facts(self) == facts(other) && self.secret.expose() == other.secret.expose()
    }
}

impl Eq for Webhook {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_policy_comes_back_as_it_was_and_shows_no_secret() {
        let wire = json!({
            "allow": ["192.0.2.0/24"],
            "deny": ["2001:db8::/32"],
            "basic_auth": [{ "user": "ann", "hash": "$argon2id$hunter2" }],
            "header": { "name": "x-key", "digest": format!("sha256:{}", "0f".repeat(32)) },
            "webhook": { "scheme": "stripe", "secret": "hunter2", "tolerance_s": 300, "max_body": 1_048_576 },
            "preflight": true,
        });
        let policy: AccessPolicy = serde_json::from_value(wire.clone()).unwrap();
        assert_eq!(serde_json::to_value(&policy).unwrap(), wire);
        assert!(!policy.is_open() && !policy.is_for_addresses());
        assert!(!format!("{policy:?}").contains("hunter2"));
        let open: AccessPolicy = serde_json::from_value(json!({})).unwrap();
        assert!(open.is_open() && open.is_for_addresses());
        assert_eq!(serde_json::to_value(open).unwrap(), json!({}));
    }
}
