//! Limits of one client, over all its tunnels.

use std::num::NonZeroU32;

use crate::schema::{Key, Table, key, options};

options! {
    /// What `clients.toml` does not give is as in `limits.per_client` of `server.toml`.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct ClientLimits check by check {
        /// Requests per second to all services of one client, in the long run. A client's own `limits` in the clients
        /// file take precedence over those of the server.
        pub requests_per_second: Option<NonZeroU32> = requests(), reload;
        /// Requests at once, before that rate counts.
        pub burst: Option<NonZeroU32> =
            requests().without("a second's worth").within(", only beside `requests_per_second`"), reload;
        /// Requests in flight, over all tunnels of the client.
        pub streams: Option<usize> = key::optional_number(1..=1_000_000), reload;
    }
}

fn requests() -> Key<Option<NonZeroU32>> {
    let nonzero = |number: Option<usize>| number.and_then(|number| NonZeroU32::new(u32::try_from(number).ok()?));
    key::optional_number(1..=1_000_000_000).map(nonzero)
}

fn check(limits: &mut ClientLimits, table: &Table<'_>) {
    if limits.burst.is_some() && limits.requests_per_second.is_none() {
        table.problem(
            "burst",
            "needs requests_per_second beside it: it is what may come at once before that rate counts",
        );
    }
}
