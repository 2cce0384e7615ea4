//! Why a tunnel is retired.

/// Why a tunnel accepts no new visitors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetireReason {
    /// An agent of the same client that was started later has its last name, and this one cannot stand by.
    Replaced {
        /// Which agent, and where.
        by: String,
    },
    /// The same agent has logged in again.
    Reconnected,
    /// The agent announced that it is shutting down.
    Leaving,
    /// The server is shutting down.
    Draining,
    /// The operator has revoked the agent's token, or all of its services. Open streams are reset.
    Revoked,
    /// The operator has closed the connection. The agent may reconnect. Open streams are reset.
    Disconnected,
}

impl RetireReason {
    /// Returns whether the lanes close immediately, which resets their open streams.
    pub(crate) fn is_immediate(&self) -> bool {
        matches!(self, Self::Reconnected) || self.is_by_operator()
    }

    /// Returns whether the operator caused it.
    pub(crate) fn is_by_operator(&self) -> bool {
        matches!(self, Self::Revoked | Self::Disconnected)
    }
}
