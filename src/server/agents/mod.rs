//! Agents: how they connect and log in, how they change their services, and when the server closes their tunnels.

pub(crate) mod accept;
pub(crate) mod lane;
pub mod login;
pub(crate) mod revocation;
pub(crate) mod service_changes;
pub(crate) mod start_order;
