//! Which names an agent has lost to a newer login.
//!
//! An agent that is replaced is told so and ends. One that was cut off at that moment has not heard it: when it comes
//! back, it must not throw the newer one out, or the two would take turns.

use std::collections::{HashMap, VecDeque};

use crate::values::{ClientId, InstanceId, Name};

/// Losses that are remembered for each client; older ones are forgotten.
const REMEMBERED: usize = 64;

/// The losses of all clients. Bounded by the clients that the operator lists.
#[derive(Debug, Default)]
pub(super) struct Lost(HashMap<ClientId, VecDeque<(InstanceId, Name)>>);

impl Lost {
    /// This agent has lost `name` to a newer one.
    pub(super) fn remember(&mut self, client: &ClientId, instance: InstanceId, name: &Name) {
        self.forget(client, instance, name);
        let losses = self.0.entry(client.clone()).or_default();
        losses.truncate(REMEMBERED - 1);
        losses.push_front((instance, name.clone()));
    }

    /// Keeps the losses of these clients only.
    pub(super) fn retain(&mut self, keep: impl Fn(&ClientId) -> bool) {
        self.0.retain(|client, _| keep(client));
    }

    /// Whether this agent has lost `name`.
    pub(super) fn contains(&self, client: &ClientId, instance: InstanceId, name: &Name) -> bool {
        let is_it = |(loser, lost): &(InstanceId, Name)| *loser == instance && lost == name;
        self.0.get(client).is_some_and(|losses| losses.iter().any(is_it))
    }

    /// This agent has `name` again, or never lost it.
    pub(super) fn forget(&mut self, client: &ClientId, instance: InstanceId, name: &Name) {
        if let Some(losses) = self.0.get_mut(client) {
            losses.retain(|(loser, lost)| *loser != instance || lost != name);
            if losses.is_empty() {
                self.0.remove(client);
            }
        }
    }
}
