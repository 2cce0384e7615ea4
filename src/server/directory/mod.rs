//! Where a name is served: the connected tunnels with their lanes, their services, names and ports, and what each client
//! uses.

pub(crate) mod client_usage;
pub mod ports;
pub mod registry;
pub mod service;
pub mod tunnel;
pub(crate) mod urls;
