//! Limits of visitors: the request rate and the connections of an address, passwords that are compared, and the memory of
//! requests that wait.

use std::io;

use crate::access::{LoginCookies, PasswordGate};
use crate::auth::TicketKey;
use crate::limits::{HeldHeads, PerAddress, Permits, REMEMBERED_ADDRESSES, SharedBudget, VisitorRate};
use crate::server::ingress::refusal_log::RefusalLog;
use crate::server::options::LimitOptions;

/// How many requests may wait at once because they are beyond a rate.
const MAX_DELAYED: usize = 4096;

/// The limits of visitors.
#[derive(Debug)]
pub(crate) struct VisitorLimits {
    /// Requests of each address.
    pub(crate) requests: VisitorRate,
    /// Requests that wait because they are beyond a rate.
    pub(super) delayed: Permits,
    /// Names limits in the log that refuse requests.
    pub(crate) refusals: RefusalLog,
    /// Connections of each address.
    pub(crate) connections_by_address: PerAddress,
    /// All connections.
    pub(crate) connections: Permits,
    /// Compares visitors' passwords.
    pub(crate) passwords: PasswordGate,
    /// Recognizes visitors whose password was right before.
    pub(crate) login_cookies: LoginCookies,
    /// The memory for heads of waiting requests.
    pub(crate) held_heads: HeldHeads,
    /// The memory for bodies of requests whose signature is not checked yet.
    pub(crate) held_bodies: SharedBudget,
}

impl VisitorLimits {
    /// Creates the limits for up to `connections` connections at once. The key for login cookies derives from `tickets`.
    ///
    /// # Errors
    /// The system has no randomness.
    pub(crate) fn new(limits: &LimitOptions, connections: usize, tickets: &TicketKey) -> io::Result<Self> {
        let (per_ip, prefix) = (&limits.per_ip, limits.per_ip.ipv6_prefix);
        let passwords = PasswordGate::new(per_ip.logins_per_minute, prefix, REMEMBERED_ADDRESSES);
        Ok(Self {
            requests: VisitorRate::new(per_ip.requests_per_second, per_ip.burst, prefix, REMEMBERED_ADDRESSES),
            delayed: Permits::new(MAX_DELAYED),
            refusals: RefusalLog::default(),
            connections_by_address: PerAddress::new(per_ip.connections, prefix),
            connections: Permits::new(connections),
            passwords: passwords.map_err(io::Error::other)?,
            login_cookies: LoginCookies::new(&tickets.derive("login cookies")).map_err(io::Error::other)?,
            held_heads: HeldHeads::new(limits.held_heads),
            held_bodies: SharedBudget::new(limits.held_bodies),
        })
    }

    /// Applies changed settings, with room for up to `connections` connections. What is open stays open.
    pub(crate) fn apply(&self, limits: &LimitOptions, connections: usize) {
        let Self {
            requests,
            delayed: _,
            refusals: _,
            connections_by_address,
            connections: all_connections,
            passwords,
            login_cookies: _,
            held_heads,
            held_bodies,
        } = self;
        let (per_ip, prefix) = (&limits.per_ip, limits.per_ip.ipv6_prefix);
        requests.change(per_ip.requests_per_second, per_ip.burst, prefix);
        connections_by_address.change(per_ip.connections, prefix);
        all_connections.set_capacity(connections);
        passwords.change(per_ip.logins_per_minute, prefix);
        held_heads.set_capacity(limits.held_heads);
        held_bodies.set_capacity(limits.held_bodies);
    }

    /// Forgets addresses that have been idle. Walks all of them.
    pub(crate) fn evict_idle(&self) {
        self.requests.evict_idle();
        self.passwords.evict_idle();
    }
}
