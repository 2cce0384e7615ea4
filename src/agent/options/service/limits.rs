//! `[services.limits]`: lower limits than those of the server. The server is told of them.

use std::num::NonZeroU32;

use crate::protocol::login::ServiceLimits;
use crate::schema::{Entry, Table, key};

const MOST: usize = 1_000_000_000;

pub(super) fn resolve(service: &mut Table<'_>) -> Option<ServiceLimits> {
    let limits = key::any("see below").of_section().without("the server's").doc(
        "Lower limits than the server's own, for each visitor's address. A connection of a `tcp` or `tls` service counts as a \
         request.",
    );
    let mut table = service.take("limits", &limits).and_then(Entry::table)?;
    let number = || {
        let nonzero = |number: Option<usize>| number.and_then(|number| NonZeroU32::new(u32::try_from(number).ok()?));
        key::optional_number(1..=MOST).map(nonzero)
    };
    let rate = number().required("say how many requests of one address are allowed per second");
    let rate =
        rate.doc("Requests per second of one address, in the long run. A short excess waits for up to a second.");
    let rate = table.get("requests_per_second", rate);
    let burst = number().without("a second's worth").doc("Requests of one address at once, before that rate counts.");
    let burst = table.get("burst", burst);
    rate.map(|requests_per_second| ServiceLimits { requests_per_second, burst })
}
