//! What the control stream carries: the first stream of every lane, opened by the agent.

use serde::{Deserialize, Serialize};

use super::login::{PublicService, Refused, ServiceOffer};
use super::standby::Standby;
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
    /// From the server: an agent of the same client that was started later has the last name of this tunnel, which ends.
    /// Sent to agents that do not support standby, or when there is no room for another tunnel.
    Replaced {
        /// The other agent (program, host and address), for the agent's log.
        by: String,
    },
    /// Both ways: the sender takes no new streams and leaves when the open ones are done, at the latest in so many
    /// seconds.
    Draining {
        /// Seconds until the sender closes the connection.
        deadline_s: f64,
    },
    /// From the server: this lane nears the end of its stream numbers; please join another lane, which then takes its
    /// place.
    Rollover,
    /// From the server: a fresher ticket than the one from the login.
    Ticket {
        /// The ticket.
        ticket: Secret,
    },
    /// From the agent: what it offers from now on, in place of what it offered before. Services that stay are not touched.
    Services {
        /// Counts the agent's changes; the answer repeats it.
        change: u64,
        /// All of them.
        services: Vec<ServiceOffer>,
        /// The capabilities that the server must support, as in a [`super::login::Hello`].
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        required: Vec<String>,
    },
    /// From the server: what it offers now counts, as visitors reach it.
    Offered {
        /// Which change of the agent's it answers; 0 if the server has changed it, because the operator did.
        change: u64,
        /// All of them.
        services: Vec<PublicService>,
        /// The offered names that another agent of the client has.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        standby: Vec<Standby>,
    },
    /// From the server: a change is refused as a whole; what was offered before stays.
    NotOffered {
        /// Which change.
        change: u64,
        /// Why.
        refused: Refused,
    },
    /// A change of services that this version cannot parse; never sent.
    #[serde(skip)]
    Unreadable {
        /// The number of the change.
        change: u64,
        /// The refusal to send back.
        refused: Refused,
    },
    /// A message of a later version.
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Control {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn every_message_comes_back_as_it_was() {
        for (message, wire) in [
            (Control::Heartbeat, r#"{"type":"heartbeat"}"#),
            (Control::OpenLane, r#"{"type":"open_lane"}"#),
            (Control::Replaced { by: "adit 1.2".into() }, r#"{"type":"replaced","by":"adit 1.2"}"#),
            (Control::Draining { deadline_s: 2.5 }, r#"{"type":"draining","deadline_s":2.5}"#),
            (Control::Rollover, r#"{"type":"rollover"}"#),
            (Control::Ticket { ticket: Secret::new("t") }, r#"{"type":"ticket","ticket":"t"}"#),
        ] {
            assert_eq!(serde_json::to_string(&message).unwrap(), wire);
            assert_eq!(serde_json::to_string(&read(wire)).unwrap(), wire);
        }
    }

    #[test]
    fn a_later_version_may_say_more() {
        for unknown in [
            r#"{"type":"dance"}"#,
            r#"{"type":"dance","tempo":120,"steps":[{"left":true},null]}"#,
            r#"{"tempo":{"type":"heartbeat"},"type":"dance"}"#,
        ] {
            assert!(matches!(read(unknown), Control::Other), "{unknown}");
        }
        assert!(matches!(read(r#"{"type":"heartbeat","load":0.5}"#), Control::Heartbeat));
        let draining = read(r#"{"why":["update"],"deadline_s":30,"type":"draining"}"#);
        assert!(matches!(draining, Control::Draining { deadline_s } if (deadline_s - 30.0).abs() < f64::EPSILON));
    }

    #[test]
    fn a_message_without_a_type_or_a_field_is_refused() {
        for text in ["{}", "[]", "\"heartbeat\"", r#"{"type":7}"#, r#"{"type":"draining"}"#, r#"{"type":"ticket"}"#] {
            assert!(serde_json::from_str::<Control>(text).is_err(), "{text}");
        }
    }
}
