//! Upstreams: which service and tunnel a request goes to, failover between the tunnels of a group, and the wait for agents
//! after a restart.

pub(crate) mod agents_return;
pub(crate) mod failover;
pub(crate) mod lookup;
#[cfg(test)]
pub(crate) mod testing;
