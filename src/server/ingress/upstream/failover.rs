//! Failover between the tunnels of a group.

use std::sync::Arc;
use std::time::Duration;

use http::Method;

use crate::link::mux::MuxStream;
use crate::server::directory::Directory;
use crate::server::directory::offered::Offered;
use crate::server::directory::tunnel::{OpenFailure, StreamPermit};
use crate::server::ingress::error_page::Failure;
use crate::values::TunnelId;

/// The most tunnels that one request tries.
const ATTEMPTS: usize = 3;

/// The tunnels that one request or connection tries.
#[derive(Debug)]
pub(crate) struct Failover {
    current: Arc<Offered>,
    tried: Vec<TunnelId>,
    /// How long opening a stream may take.
    deadline: Duration,
}

impl Failover {
    /// Starts with the tunnel of `offered`. Opening a stream may take `deadline`.
    pub(crate) fn new(offered: &Arc<Offered>, deadline: Duration) -> Self {
        Self { current: Arc::clone(offered), tried: Vec::new(), deadline }
    }

    /// Opens a stream and sends `first` on it. Fails over to another tunnel if one accepts no stream.
    pub(crate) async fn open(
        &mut self,
        directory: &Directory,
        first: &[u8],
    ) -> Result<(MuxStream, StreamPermit), Failure> {
        loop {
            match self.current.tunnel.open(first, self.deadline).await {
                Ok(opened) => return Ok(opened),
                // The limit is the same for all tunnels.
                Err(failure @ OpenFailure::ClientBusy) => return Err(failure.into()),
                Err(failure) if !self.next_tunnel(directory) => return Err(failure.into()),
                Err(_) => {}
            }
        }
    }

    /// Selects another tunnel for a request that failed. Returns `false` if there is none, or if the request must not be sent
    /// again: it may be if the application has not seen it, or if it is idempotent (RFC 9110, section 9.2.2).
    pub(crate) fn retry_elsewhere(&mut self, directory: &Directory, failure: &Failure, method: &Method) -> bool {
        let may_repeat = *failure == Failure::TunnelLost && method.is_idempotent();
        (failure.is_before_the_application() || may_repeat) && self.next_tunnel(directory)
    }

    fn next_tunnel(&mut self, directory: &Directory) -> bool {
        self.tried.push(self.current.tunnel.id());
        if self.tried.len() >= ATTEMPTS {
            return false;
        }
        match directory.registry.another(&self.current, &self.tried) {
            Some(next) => self.current = next,
            None => return false,
        }
        true
    }
}
