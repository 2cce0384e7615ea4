//! Upstreams: which service and tunnel a request goes to, and failover between the tunnels of a group.

pub(crate) mod failover;
pub(crate) mod lookup;
#[cfg(test)]
pub(crate) mod testing;
