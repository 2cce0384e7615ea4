//! What the control stream carries: the first stream of every lane, opened by the agent.

use serde::{Deserialize, Serialize};

use crate::values::Secret;

/// How many heartbeats in a row may fail to come before the lane counts as dead.
pub const MISSED_HEARTBEATS: u32 = 3;

/// A message on the control stream. Heartbeats concern their lane; everything else concerns the tunnel and may come on
/// any living lane.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Control {
    /// Both ways: the sender is alive.
    Heartbeat,
    /// From the server: please join another lane.
    OpenLane,
    /// From the server: a newer login took over the last name of this tunnel. Final for the agent.
    Replaced {
        /// What program took over, for the agent's log.
        by: String,
    },
    /// Both ways: the sender takes no new streams and leaves when the open ones are done, at the latest in so many
    /// seconds.
    Draining {
        /// Seconds until the sender closes the connection.
        deadline_s: f64,
    },
    /// From the server: this lane has opened so many streams that it takes no new ones; please join another lane.
    Rollover,
    /// From the server: a fresher ticket than the one from the login.
    Ticket {
        /// The ticket.
        ticket: Secret,
    },
    /// A message of a later version.
    #[serde(other)]
    Other,
}
