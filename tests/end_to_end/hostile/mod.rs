//! Peers inside the tunnel that mean harm. Whatever one of them does ends what is its own: its exchange, its session;
//! everybody else is served while it goes on, and nothing grows without an end.

mod agents;
mod answers;
mod raw;
mod servers;

use std::time::Duration;

use http::StatusCode;

use crate::harness::visitor::fetch;
use crate::harness::{TestAgent, TestServer, apps};

/// A client who does no harm, beside those who do.
struct Bystander(TestAgent);

impl Bystander {
    async fn connect(server: &TestServer) -> Self {
        Self(TestAgent::connect(server, "alice", &[("alice", apps::fixed("fine").await)]).await)
    }

    /// It is served, and at once.
    async fn is_served(&self, server: &TestServer, while_what: &str) {
        let asked = tokio::time::timeout(Duration::from_secs(5), fetch(server.public, "alice", "/")).await;
        let answer = asked.unwrap_or_else(|_| panic!("nobody else is served: {while_what}"));
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "fine"), "{while_what}");
        assert!(matches!(*self.0.state.borrow(), adit::agent::State::Connected { .. }), "{while_what}");
    }
}
