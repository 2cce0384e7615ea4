//! `[timeouts]` and `[limits]`.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{HOUR, MINUTE, SECOND};
use crate::schema::{Key, key, options};
use crate::tenants::client_limits::ClientLimits;

const SHORTEST: Duration = Duration::from_millis(10);

options! {
    /// The `[timeouts]` section.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct TimeoutOptions {
        /// A visitor's request head, first byte included; also how long opening a stream may take.
        pub head: Duration = key::duration(10 * SECOND, SHORTEST..=10 * MINUTE), reload;
        /// Between two requests on one connection.
        pub keep_alive: Duration = key::duration(75 * SECOND, SHORTEST..=60 * MINUTE), reload;
        /// The agent's connection to the application.
        pub connect: Duration = key::duration(5 * SECOND, SHORTEST..=10 * MINUTE), reload;
        /// From the end of the request to the head of the response. An upload may take as long as it makes progress
        /// (`idle`).
        pub response_head: Duration = key::duration(120 * SECOND, SHORTEST..=24 * HOUR), reload;
        /// Between two bytes of a body, in either direction.
        pub idle: Duration = key::duration(5 * MINUTE, SHORTEST..=24 * HOUR), reload;
        /// The same for streams: upgraded connections, responses without a length, `text/event-stream` and
        /// `application/grpc`. A service may have a shorter time (`services[].quiet_timeout`).
        pub quiet_stream: Duration = key::duration(HOUR, SHORTEST..=30 * 24 * HOUR), reload;
    }
}

const MOST: usize = 1_000_000;
const MOST_BYTES: usize = 4_000_000_000;

options! {
    /// The `[limits]` section.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct LimitOptions {
        /// Concurrent requests over all tunnels. When half of them are in use, each connected client gets an equal
        /// share of the other half, at least 8.
        pub streams: usize = key::number(16_384, 1..=MOST), reload;
        /// Visitors' connections in all; never more than three quarters of the files that the process may open.
        pub connections: usize = key::number(16_384, 1..=MOST), reload;
        /// The size of a request head.
        pub head_size: usize = key::bytes(65_536, 8_192..=262_144), reload;
        /// Memory for the heads of all waiting requests; the first 8 KiB of each do not count. One address may hold a
        /// sixteenth, one client a quarter, and each at least one head. Beyond that, 503 (`heads_busy`).
        pub held_heads: usize = key::bytes(33_554_432, 1_048_576..=MOST_BYTES), reload;
        /// Bodies that are held until the signature of a webhook is checked, over all services. When it is full, the
        /// server evicts bodies of clients that hold more than an equal share; these requests get 503.
        pub held_bodies: usize = key::bytes(67_108_864, 65_536..=MOST_BYTES), reload;
        /// Response data that waits for slow visitors, over all requests. Beyond that, responses of which more than
        /// 64 KiB wait are aborted.
        pub unread_answers: usize = key::bytes(1_073_741_824, 1_048_576..=MOST_BYTES), reload;
        /// For each visitor's or agent's address.
        pub per_ip: PerIpLimits, section;
        /// For each client, over all its tunnels and visitors.
        pub per_client: ClientLimits, section;
        /// For each tunnel.
        pub per_tunnel: PerTunnelLimits, section;
    }
}

options! {
    /// The `[limits.per_ip]` section.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct PerIpLimits {
        /// Requests per second, in the long run. A short excess waits for up to a second; what goes beyond that is refused
        /// with 429.
        pub requests_per_second: NonZeroU32 = positive(500), reload;
        /// Requests at once, before the rate counts.
        pub burst: NonZeroU32 = positive(5_000), reload;
        /// Open connections of visitors; fewer when half of `limits.connections` is in use: a sixteenth of what is left
        /// of it, at least 8.
        pub connections: NonZeroU32 = positive(256), reload;
        /// Requests in flight over all connections of one address; fewer when half of `limits.streams` is in use: a
        /// sixteenth of what is left of it, at least 64. Not counted for `trusted_proxies`.
        pub streams: usize = key::number(1_024, 1..=MOST), reload;
        /// Failed logins of agents, wrong passwords of visitors, and wrong tokens at the admin port, counted separately.
        /// Repeated attempts with a refused token, and tickets, do not count. The server also limits all checks for an
        /// address in a minute, whether they succeed or fail: ten times this many tokens plus 128, and four times this
        /// many passwords. Beyond the limit, an address may still log in as clients for which it has not failed; up to
        /// 128 such attempts may fail.
        pub logins_per_minute: NonZeroU32 = positive(30), reload;
        /// Leading bits of an IPv6 address that identify one visitor.
        pub ipv6_prefix: u8 = key::number(64, 1..=128).map(|bits| u8::try_from(bits).unwrap_or(64)), reload;
    }
}

options! {
    /// The `[limits.per_tunnel]` section.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct PerTunnelLimits {
        /// Requests in flight in one tunnel.
        pub streams: usize = key::number(4_096, 1..=MOST), reload;
        /// Of those, on one connection to the agent. There are up to four, opened when one carries bulk, or 96 requests,
        /// or three quarters of these.
        pub streams_per_lane: usize = key::number(1_000, 1..=4_000), reload;
        /// Requests that one connection to an agent carries before a fresh one takes its place.
        pub lane_lifetime: u64 = key::number(500_000_000, 1..=1_000_000_000).map(|streams| streams as u64), reload;
        /// What all responses on one connection to an agent may have waiting for their visitors, beyond 256 KiB each: a
        /// visitor that was fast and stops makes the server hold no more than both. A download needs twice its rate
        /// times its round trip to fill the link (400 Mbit/s at 100 ms: 10 MiB).
        pub lane_window: usize = key::bytes(16_777_216, 0..=1_073_741_824), reload;
    }
}

fn positive(default: usize) -> Key<NonZeroU32> {
    let nonzero = |number| u32::try_from(number).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX);
    key::number(default, 1..=1_000_000_000).map(nonzero)
}
