//! Agents: how they connect and log in, what they offer, and when the server closes their tunnels.

pub(crate) mod accept;
pub(crate) mod domain_verification;
pub(crate) mod lane;
pub mod login;
pub(crate) mod revocation;
pub(crate) mod service_changes;
pub(crate) mod start_order;
