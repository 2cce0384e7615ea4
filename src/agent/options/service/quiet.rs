//! `services[].quiet_timeout`.

use std::time::Duration;

use crate::schema::{Entry, Table, key};

const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(30 * 24 * 60 * 60);

pub(super) fn resolve(table: &mut Table<'_>) -> Option<Duration> {
    let timeout = key::any("10 ms to 30 days").without("the server's `timeouts.quiet_stream`").doc(
        "How long an upgraded connection (WebSocket), a `tcp` or `tls` connection, or a response without a length may be silent. \
         The server's `timeouts.quiet_stream` is the upper bound.",
    );
    let entry: Option<Entry<'_>> = table.take("quiet_timeout", &timeout);
    entry.and_then(|entry| entry.duration(&(SHORTEST..=LONGEST)))
}
