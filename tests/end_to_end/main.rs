//! Servers, agents, local applications and visitors in one process, on ports that the system chooses. Every test waits
//! for events; none for time to pass.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

mod access;
mod addresses;
mod admin;
mod changes;
mod cut;
mod delivered;
mod early;
mod event_source;
mod exchanges;
mod floods;
mod forged;
mod harness;
mod heads;
mod hostile;
mod http2;
mod https;
mod in_process;
mod incomplete;
mod kept;
mod lanes;
mod leaving;
mod limits;
mod local;
mod login;
mod older;
mod raw;
mod refused;
mod reload;
mod response_heads;
mod rules;
mod scale;
mod shutdown;
mod slow_link;
mod stale;
mod standby;
mod takeover;
mod targets;
mod tenants;
#[cfg(feature = "otlp")]
mod traces;
mod unsettled;
mod upgrades;
