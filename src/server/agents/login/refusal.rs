//! The refusal of a login.

use crate::protocol::login::Refused;

/// A refused login: what the agent is told, which is the same for many reasons, and the reason for the operator's log.
#[derive(Debug)]
pub(crate) struct LoginRefusal {
    /// What the agent is told.
    pub(crate) refused: Refused,
    reason: Option<String>,
}

impl From<Refused> for LoginRefusal {
    fn from(refused: Refused) -> Self {
        Self { refused, reason: None }
    }
}

impl LoginRefusal {
    /// Creates a refusal with a reason that only the log contains.
    pub(crate) fn with_reason(refused: Refused, reason: impl Into<String>) -> Self {
        Self { refused, reason: Some(reason.into()) }
    }

    /// Returns the reason for the log. It contains no secret.
    pub(crate) fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or(&self.refused.message)
    }
}
