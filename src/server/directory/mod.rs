//! Where a name is served: the connected tunnels with their lanes, services, names and ports, and what each client uses.
//!
//! [`resolve`] is what the ingress asks; [`registry`] answers for this node.

pub mod authenticated;
pub(crate) mod client_usage;
pub(crate) mod notices;
pub mod offered;
pub mod ports;
pub(crate) mod public_urls;
pub mod registry;
pub mod service;
pub mod tunnel;
