//! Why a tunnel is not registered.

use crate::protocol::login::{Refusal, Refused};
use crate::protocol::standby::OtherAgent;
use crate::server::directory::registry::MAX_TUNNELS_OF_A_CLIENT;
use crate::values::{Domain, Name};

/// Why a tunnel could not be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegisterError {
    /// Another client has this name.
    NameTaken(Name),
    /// Another client has this domain.
    DomainTaken(Domain),
    /// An agent of the same client that was started later has this name, and the others are taken or reserved, too.
    Replaced(Name, OtherAgent),
    /// This name is free, but reserved for an agent of the same client that was started later.
    Reserved(Name),
    /// The server has as many tunnels as `tunnel.max_tunnels` allows.
    TooMany,
    /// The client has [`MAX_TUNNELS_OF_A_CLIENT`] tunnels.
    TooManyOfClient,
}

impl RegisterError {
    /// Returns the refusal that the agent receives.
    pub fn refused(&self) -> Refused {
        match self {
            Self::NameTaken(name) => {
                Refused::new(Refusal::NameTaken, format!("the name `{name}` is in use by another client"))
            }
            Self::DomainTaken(domain) => {
                Refused::new(Refusal::NameTaken, format!("the domain `{domain}` is in use by another client"))
            }
            Self::Replaced(name, by) => Refused::new(
                Refusal::NameTaken,
                format!(
                    "{by} was started later and has the name `{name}`; run only one agent, or give each its own name (--name)"
                ),
            ),
            Self::Reserved(name) => Refused::new(
                Refusal::TooMany,
                format!("the name `{name}` is reserved for another agent of the same client for a moment; try again"),
            ),
            Self::TooMany => {
                Refused::new(Refusal::TooMany, "the server has as many tunnels as it may (`tunnel.max_tunnels`)")
            }
            Self::TooManyOfClient => Refused::new(
                Refusal::TooMany,
                format!("the client has {MAX_TUNNELS_OF_A_CLIENT} agents connected already; stop one of them"),
            ),
        }
    }
}

impl From<RegisterError> for Refused {
    fn from(error: RegisterError) -> Self {
        error.refused()
    }
}
