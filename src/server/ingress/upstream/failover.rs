//! Through which tunnel a request goes, and through which one next if nothing has come of it.

use std::sync::Arc;
use std::time::Duration;

use http::Method;

use crate::link::mux::MuxStream;
use crate::server::directory::offered::Offered;
use crate::server::directory::tunnel::{OpenFailure, StreamPermit};
use crate::server::ingress::Ingress;
use crate::server::ingress::error_page::Failure;
use crate::values::TunnelId;

/// The most tunnels that one request is sent through.
const ATTEMPTS: usize = 3;

/// The way of one request or connection.
#[derive(Debug)]
pub(crate) struct Course {
    now: Arc<Offered>,
    tried: Vec<TunnelId>,
    /// How long opening a stream may take.
    deadline: Duration,
}

impl Course {
    /// It begins where the route leads. Opening a stream may take `deadline`.
    pub(crate) fn new(offered: &Arc<Offered>, deadline: Duration) -> Self {
        Self { now: Arc::clone(offered), tried: Vec::new(), deadline }
    }

    /// Opens a stream and sends `first` on it. A tunnel that takes none is passed over, if there is another one.
    pub(crate) async fn open(&mut self, ingress: &Ingress, first: &[u8]) -> Result<(MuxStream, StreamPermit), Failure> {
        loop {
            match self.now.tunnel.open(first, self.deadline).await {
                Ok(opened) => return Ok(opened),
                // The limit is the same wherever it goes.
                Err(failure @ OpenFailure::ClientBusy) => return Err(failure.into()),
                Err(failure) if !self.turn(ingress) => return Err(failure.into()),
                Err(_) => {}
            }
        }
    }

    /// Turns to another tunnel with a request that has failed, if there is one and the request may be sent again: the
    /// application has not seen it, or it does no harm to be asked twice (RFC 9110, section 9.2.2).
    pub(crate) fn may_go_on(&mut self, ingress: &Ingress, failure: &Failure, method: &Method) -> bool {
        let may_repeat = *failure == Failure::TunnelLost && method.is_idempotent();
        (failure.is_before_the_application() || may_repeat) && self.turn(ingress)
    }

    fn turn(&mut self, ingress: &Ingress) -> bool {
        self.tried.push(self.now.tunnel.id());
        if self.tried.len() >= ATTEMPTS {
            return false;
        }
        match ingress.directory.registry.another(&self.now, &self.tried) {
            Some(next) => self.now = next,
            None => return false,
        }
        true
    }
}
