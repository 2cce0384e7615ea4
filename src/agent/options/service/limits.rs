//! `[services.limits]`: lower limits than those of the server. The server is told of them.

use std::num::NonZeroU32;

use crate::protocol::login::ServiceLimits;
use crate::schema::{Entry, Table, key};

const MOST: usize = 1_000_000_000;
const MOST_STREAMS: usize = 1_000_000;

pub(super) fn resolve(service: &mut Table<'_>) -> Option<ServiceLimits> {
    let limits = key::any("see below")
        .of_section()
        .without("the server's")
        .doc("Lower limits than the server's own. A connection of a `tcp` or `tls` service counts as a request.");
    let mut table = service.take("limits", &limits).and_then(Entry::table)?;
    let number = || {
        let nonzero = |number: Option<usize>| number.and_then(|number| NonZeroU32::new(u32::try_from(number).ok()?));
        key::optional_number(1..=MOST).map(nonzero)
    };
    let rate =
        number().doc("Requests per second of one address, in the long run. A short excess waits for up to a second.");
    let requests_per_second = table.get("requests_per_second", rate);
    let burst = number().without("a second's worth").within(", only beside `requests_per_second`");
    let burst = table.get("burst", burst.doc("Requests of one address at once, before that rate counts."));
    let streams = key::optional_number(1..=MOST_STREAMS);
    let streams = streams.map(|number| number.and_then(|number| NonZeroU32::new(u32::try_from(number).ok()?)));
    let streams = table.get(
        "streams",
        streams.doc("Requests of all visitors in flight. Beyond that, 503 (`tunnel_busy`). Each agent of a group counts its own."),
    );
    if burst.is_some() && requests_per_second.is_none() {
        let why = "needs requests_per_second beside it: it is what may come at once before that rate counts";
        table.problem("burst", why);
    }
    let is_limited = requests_per_second.is_some() || streams.is_some();
    is_limited.then_some(ServiceLimits { requests_per_second, burst, streams })
}
