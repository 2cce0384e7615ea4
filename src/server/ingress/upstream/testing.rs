//! A directory with a fixed set of upstreams, for tests.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::server::directory::resolve::{Resolve, Upstream};
use crate::server::directory::tunnel::OpenFailure;
use crate::values::{ClientId, Name, TunnelId};

/// Names and domains, each with its upstreams in the order in which they are used.
#[derive(Debug, Default)]
pub(crate) struct FixedDirectory {
    pub(crate) names: HashMap<Name, Vec<Arc<FakePeer>>>,
    pub(crate) domains: HashMap<String, Vec<Arc<FakePeer>>>,
}

impl Resolve for FixedDirectory {
    type Upstream = FakePeer;

    fn by_name(&self, name: &Name) -> Option<Arc<FakePeer>> {
        self.names.get(name)?.first().cloned()
    }

    fn below_name(&self, _: &Name) -> Option<Arc<FakePeer>> {
        None
    }

    fn by_domain(&self, host: &str) -> Option<Arc<FakePeer>> {
        self.domains.get(host)?.first().cloned()
    }

    fn another(&self, upstream: &FakePeer, tried: &[TunnelId]) -> Option<Arc<FakePeer>> {
        let all = self.names.values().find(|all| all.iter().any(|peer| peer.tunnel == upstream.tunnel))?;
        all.iter().find(|peer| !tried.contains(&peer.tunnel)).cloned()
    }
}

/// Another node to which requests are sent. It accepts all streams, or none.
#[derive(Debug)]
pub(crate) struct FakePeer {
    client: ClientId,
    tunnel: TunnelId,
    outcome: Result<(), OpenFailure>,
    opened: AtomicUsize,
}

impl FakePeer {
    pub(crate) fn new(client: &str, outcome: Result<(), OpenFailure>) -> Arc<Self> {
        let (client, tunnel) = (client.parse().unwrap(), TunnelId::random().unwrap());
        Arc::new(Self { client, tunnel, outcome, opened: AtomicUsize::new(0) })
    }

    /// Returns how many times a stream was requested.
    pub(crate) fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }
}

impl Upstream for FakePeer {
    type Stream = ();

    fn client(&self) -> &ClientId {
        &self.client
    }

    fn tunnel(&self) -> TunnelId {
        self.tunnel
    }

    async fn open(&self, _first: &[u8], _deadline: Duration) -> Result<(), OpenFailure> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.outcome
    }
}
