//! The upper bound of a server's memory, computed from its configuration. `docs/configuration.md` explains the formula.

use std::fmt;

use crate::limits::FREE_HEAD;
use crate::limits::REMEMBERED_ADDRESSES;
use crate::link::carriers::mux::{self, SPARED};
use crate::link::write;
use crate::protocol::frame::MAX_DATA;
use crate::protocol::json;
use crate::server::directory::tunnel::MAX_LANES;
use crate::server::ingress::entry::http::{HTTP2_CONNECTION_WINDOW, HTTP2_SEND_BUFFER};
use crate::server::options::ServerOptions;

/// The maximum that rustls buffers for a connection: received records, plaintext, and records to send.
const TLS: usize = 160 * 1024;

/// The memory of a remembered address: one entry in each of four maps.
const ADDRESS: usize = 4 * 100;

/// Concurrent computations of token and password hashes, with the highest cost that each may have.
const COMPARISONS: usize = 2 * (256 + 64) * 1024 * 1024;

/// The memory of a span: three strings that the visitor chooses, the trace context, and some twenty attributes.
const SPAN: usize = 8 * 1024;

/// Spans in the export queue, and those of a batch, both as spans and encoded.
const WAITING_SPANS: usize = 2048 + 2 * 512;

/// The memory of an idle process: code, certificates, runtime, allocator.
const BASE: usize = 64 * 1024 * 1024;

/// The upper bound, in bytes, by consumer. Ordinary load stays far below: reaching it takes malicious agents and visitors
/// that exhaust every limit at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryBound {
    /// `limits.streams` requests, each with: its head as read and as forwarded, up to the size that is not counted against
    /// `limits.held_heads`; a frame on its way to the visitor; and the part of an unread answer
    /// that is not counted against `limits.unread_answers`.
    pub requests: u64,
    /// `limits.connections` connections of visitors.
    pub visitors: u64,
    /// The lanes of `tunnel.max_tunnels` tunnels.
    pub agents: u64,
    /// `limits.unread_answers`, `limits.held_bodies`, and twice `limits.held_heads` (as read and as forwarded).
    pub held: u64,
    /// Everything that does not depend on limits.
    pub rest: u64,
}

impl MemoryBound {
    /// Computes the bound of a server with this configuration.
    pub fn of(config: &ServerOptions) -> Self {
        let limits = &config.limits;
        let span = if config.traces.endpoint.is_some() { SPAN } else { 0 };
        let request = 2 * limits.head_size.min(FREE_HEAD) + MAX_DATA.max(HTTP2_SEND_BUFFER) + SPARED + span;
        // HTTP/1 reads and writes into buffers of a head's size; HTTP/2 into its window.
        let http1 = 2 * limits.head_size + MAX_DATA;
        let http2 = HTTP2_CONNECTION_WINDOW as usize + limits.head_size;
        let lane =
            TLS + write::held_at_most(mux::most_streams(limits.per_tunnel.streams_per_lane)) + MAX_DATA + 2 * json::MAX;
        let lanes = config.tunnel.max_tunnels.saturating_mul(MAX_LANES);
        Self {
            requests: product(limits.streams, request),
            visitors: product(limits.connections, TLS + http1.max(http2)),
            agents: product(lanes, lane),
            held: product(1, limits.unread_answers.saturating_add(limits.held_bodies))
                .saturating_add(product(2, limits.held_heads)),
            rest: product(1, BASE + COMPARISONS + REMEMBERED_ADDRESSES * ADDRESS + WAITING_SPANS * span),
        }
    }

    /// Returns the sum of all consumers.
    pub fn total(&self) -> u64 {
        [self.requests, self.visitors, self.agents, self.held, self.rest].into_iter().fold(0, u64::saturating_add)
    }
}

fn product(count: usize, each: usize) -> u64 {
    (count as u64).saturating_mul(each as u64)
}

impl fmt::Display for MemoryBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rounded up: it is an upper bound.
        let of = |bytes: u64| match bytes.div_ceil(1 << 20) {
            mib @ 0..10_240 => format!("{mib} MiB"),
            mib => format!("{} GiB", mib.div_ceil(1024)),
        };
        write!(
            f,
            "{} if everybody means harm at once: as many visitors and agents as the limits allow, each holding all it \
             may (requests {}, visitors' connections {}, agents' connections {}, heads, answers and bodies that wait {}, the \
             rest {})",
            of(self.total()),
            of(self.requests),
            of(self.visitors),
            of(self.agents),
            of(self.held),
            of(self.rest)
        )
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::schema::{Environment, Flags};

    const KIB: u64 = 1024;

    fn bound(text: &str) -> MemoryBound {
        let config = ServerOptions::from_text(Path::new("server.toml"), text, &Environment::default(), &Flags::new());
        MemoryBound::of(&config.unwrap())
    }

    /// The figures that `docs/configuration.md` gives.
    #[test]
    fn the_ceiling_follows_from_the_configuration() {
        let default = bound("");
        assert_eq!(default.requests, 16_384 * 144 * KIB);
        assert_eq!(default.visitors, 16_384 * 1_248 * KIB);
        assert_eq!(default.agents, 40_000 * (672 * KIB + 2016 * 12));
        assert_eq!(default.held, (1024 + 64 + 2 * 32) * KIB * KIB);
        assert_eq!(default.total().div_ceil(1 << 30), 51);
        let small = "[tunnel]\nmax_tunnels = 50\n[limits]\nstreams = 256\nconnections = 256\nhead_size = 16384\n\
                     unread_answers = 67108864\nheld_heads = 16777216\nheld_bodies = 16777216\n";
        let small_is = bound(small);
        assert_eq!(small_is.requests, 256 * 144 * KIB);
        assert_eq!(small_is.visitors, 256 * 1_200 * KIB);
        assert_eq!(small_is.agents, 200 * (672 * KIB + 2016 * 12));
        assert_eq!(small_is.held, (64 + 16 + 2 * 16) * KIB * KIB);
        assert_eq!(small_is.rest, default.rest);
        let parts = [small_is.requests, small_is.visitors, small_is.agents, small_is.held, small_is.rest];
        assert_eq!(small_is.total().div_ceil(KIB * KIB), 1_327);
        assert_eq!(small_is.total(), parts.iter().sum::<u64>());
    }

    #[cfg(feature = "otlp")]
    #[test]
    fn spans_take_their_part() {
        let (with, without) = (bound("[traces]\nendpoint = 'http://127.0.0.1:4318'"), bound(""));
        assert_eq!(with.requests - without.requests, 16_384 * 8 * KIB);
        assert_eq!(with.rest - without.rest, 24 * KIB * KIB);
    }

    #[test]
    fn the_largest_configuration_has_a_ceiling_too() {
        let most = "[tunnel]\nmax_tunnels = 1000000\n[limits]\nstreams = 1000000\nconnections = 1000000\n\
                    head_size = 262144\nunread_answers = 4000000000\nheld_bodies = 4000000000\n";
        assert!(bound(most).total() > bound("").total());
    }

    #[test]
    fn it_is_told_in_words() {
        let text = bound("").to_string();
        assert!(
            text.starts_with("51 GiB if everybody means harm at once") && text.contains("agents' connections 27 GiB"),
            "{text}"
        );
    }
}
