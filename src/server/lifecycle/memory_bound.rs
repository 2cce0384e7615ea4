//! The most memory that a server can be made to hold, as it follows from its configuration. The formula is told in
//! `docs/configuration.md`.

use std::fmt;

use crate::limits::FREE_HEAD;
use crate::limits::REMEMBERED_ADDRESSES;
use crate::link::mux::{self, SPARED};
use crate::link::write;
use crate::protocol::frame::MAX_DATA;
use crate::protocol::json;
use crate::server::directory::tunnel::MAX_LANES;
use crate::server::ingress::entry::http::{HTTP2_CONNECTION_WINDOW, HTTP2_SEND_BUFFER};
use crate::server::options::ServerOptions;

/// What rustls keeps for a connection at most: records that have come, plaintext, and records to send.
const TLS: usize = 160 * 1024;

/// What an address that is remembered takes: a place in each of four maps.
const ADDRESS: usize = 4 * 100;

/// Token comparisons and passwords at once, by what they may ask for at most.
const COMPARISONS: usize = 2 * (256 + 64) * 1024 * 1024;

/// What a span takes: three texts of a visitor's choice, what it says of its trace, and some twenty facts.
const SPAN: usize = 8 * 1024;

/// Spans that wait for their collector, and those of a batch as they are and as they are sent.
const WAITING_SPANS: usize = 2048 + 2 * 512;

/// What the process has before anything happens: code, certificates, runtime, allocator.
const BASE: usize = 64 * 1024 * 1024;

/// The most memory, in bytes, by what takes it. Nobody gets there by accident: it takes agents and visitors that mean
/// harm, and hold everything they may at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ceiling {
    /// `limits.streams` requests: their heads as read and as sent on, as far as they are free, a frame on its way to the
    /// visitor, and what is spared of answers beyond `limits.unread_answers`.
    pub requests: u64,
    /// `limits.connections` connections of visitors.
    pub visitors: u64,
    /// The lanes of `tunnel.max_tunnels` tunnels.
    pub agents: u64,
    /// `limits.unread_answers`, `limits.held_bodies`, and twice `limits.held_heads`: as read and as sent on.
    pub held: u64,
    /// What does not depend on the configuration.
    pub rest: u64,
}

impl Ceiling {
    /// What `config` allows.
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

    /// All of it.
    pub fn total(&self) -> u64 {
        [self.requests, self.visitors, self.agents, self.held, self.rest].into_iter().fold(0, u64::saturating_add)
    }
}

fn product(count: usize, each: usize) -> u64 {
    (count as u64).saturating_mul(each as u64)
}

impl fmt::Display for Ceiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rounded up: it is a ceiling.
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

    fn ceiling(text: &str) -> Ceiling {
        let config = ServerOptions::from_text(Path::new("server.toml"), text, &Environment::default(), &Flags::new());
        Ceiling::of(&config.unwrap())
    }

    /// The figures that `docs/configuration.md` gives.
    #[test]
    fn the_ceiling_follows_from_the_configuration() {
        let default = ceiling("");
        assert_eq!(default.requests, 16_384 * 144 * KIB);
        assert_eq!(default.visitors, 16_384 * 1_248 * KIB);
        assert_eq!(default.agents, 40_000 * (672 * KIB + 2016 * 12));
        assert_eq!(default.held, (1024 + 64 + 2 * 32) * KIB * KIB);
        assert_eq!(default.total().div_ceil(1 << 30), 51);
        let small = "[tunnel]\nmax_tunnels = 50\n[limits]\nstreams = 256\nconnections = 256\nhead_size = 16384\n\
                     unread_answers = 67108864\nheld_heads = 16777216\nheld_bodies = 16777216\n";
        let small_is = ceiling(small);
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
        let (with, without) = (ceiling("[traces]\nendpoint = 'http://127.0.0.1:4318'"), ceiling(""));
        assert_eq!(with.requests - without.requests, 16_384 * 8 * KIB);
        assert_eq!(with.rest - without.rest, 24 * KIB * KIB);
    }

    #[test]
    fn the_largest_configuration_has_a_ceiling_too() {
        let most = "[tunnel]\nmax_tunnels = 1000000\n[limits]\nstreams = 1000000\nconnections = 1000000\n\
                    head_size = 262144\nunread_answers = 4000000000\nheld_bodies = 4000000000\n";
        assert!(ceiling(most).total() > ceiling("").total());
    }

    #[test]
    fn it_is_told_in_words() {
        let text = ceiling("").to_string();
        assert!(
            text.starts_with("51 GiB if everybody means harm at once") && text.contains("agents' connections 27 GiB"),
            "{text}"
        );
    }
}
