//! The state of a running agent, and why it ends.

use std::sync::Arc;
use std::time::Duration;

use crate::agent::connector::standby::LostName;
use crate::agent::options::Service;
use crate::protocol::login::{PublicService, Refusal};
use crate::transport::tls::TlsError;

/// The state of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Dialling a server.
    Connecting,
    /// Visitors can reach it.
    Connected {
        /// The server it is connected to.
        server: String,
        /// The offered services, and where visitors reach them.
        services: Vec<PublicService>,
        /// The configured services. Those that are not in `services` cannot be reached: the operator has changed
        /// something.
        configured: Arc<[Service]>,
        /// How many lanes are up.
        lanes: usize,
        /// Why the latest change of services was refused, if it was. The services before it stay.
        refused: Option<String>,
        /// The configured names that another agent of the client has, which was started later.
        elsewhere: Vec<LostName>,
    },
    /// Connected without a name: other agents of the client, which were started later, have all of them. The server gives
    /// this agent a name when it has been free for a while.
    Standby {
        /// The server it is connected to.
        server: String,
        /// The names and the agents that have them.
        elsewhere: Vec<LostName>,
    },
    /// Waiting before the next attempt.
    Waiting {
        /// What went wrong, and what to do.
        why: String,
        /// How long it waits.
        retry_in: Duration,
    },
    /// Told to stop; open requests may finish.
    Finishing {
        /// How many are open.
        requests: usize,
        /// How much longer they may take.
        left: Duration,
    },
    /// Ended.
    Ended,
}

impl State {
    /// Whether a tunnel is up, with names or without, or is finishing its open requests.
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. } | Self::Standby { .. } | Self::Finishing { .. })
    }
}

/// Why an agent gave up for good (exit code 77).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GivenUp {
    /// Every server refused an agent at a terminal, and none had accepted it before.
    #[error("{server} refused the login ({}): {message}", .code.word())]
    Refused {
        /// Which server.
        server: String,
        /// The stable word.
        code: Refusal,
        /// What is wrong and what to do.
        message: String,
    },
    /// Another agent has all the names, and `exit_when_replaced` is set.
    #[error(
        "replaced: {by} was started later and has the same name; run only one agent, or give each its own name (--name)"
    )]
    Replaced {
        /// The other agent: program, host and address.
        by: String,
    },
}

/// Why an agent could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// The CA file or the system's roots cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system has no randomness.
    #[error("the system has no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
}
