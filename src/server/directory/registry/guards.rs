//! Guards that keep tunnels and lanes registered.

use std::sync::Arc;

use crate::server::directory::registry::{RegisterError, Registry};
use crate::server::directory::tunnel::{Lane, Tunnel};

/// A registered tunnel that waits for its first lane. Until then it has no name and replaces no other tunnel, because the
/// agent may disconnect before it receives the answer to its login. Dropping this removes the tunnel.
#[derive(Debug)]
#[must_use = "a tunnel without a lane is registered for as long as this lives"]
pub struct Registration {
    registry: Arc<Registry>,
    tunnel: Arc<Tunnel>,
    is_active: bool,
}

impl Registration {
    pub(crate) fn new(registry: Arc<Registry>, tunnel: Arc<Tunnel>) -> Self {
        Self { registry, tunnel, is_active: false }
    }

    /// Returns the tunnel.
    pub fn tunnel(&self) -> &Arc<Tunnel> {
        &self.tunnel
    }

    /// Gives the tunnel its first lane, whose guard keeps it registered from now on, and its names, except those of an agent
    /// of the same client that was started later. The previous owners of the names are notified. Earlier tunnels of the same
    /// agent are closed.
    ///
    /// # Errors
    /// Another client has claimed one of the names in the meantime. Nothing has changed then.
    pub fn activate(mut self, lane: Arc<Lane>) -> Result<LaneGuard, RegisterError> {
        self.registry.activate(&self.tunnel, &lane)?;
        self.is_active = true;
        Ok(LaneGuard::new(Arc::clone(&self.registry), Arc::clone(&self.tunnel), lane))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if !self.is_active {
            self.registry.remove(&self.tunnel);
        }
    }
}

/// A lane of a tunnel. Dropping it closes the lane's session and removes the lane, and with the last lane the tunnel.
#[derive(Debug)]
#[must_use = "a lane belongs to its tunnel for as long as this lives"]
pub struct LaneGuard {
    registry: Arc<Registry>,
    tunnel: Arc<Tunnel>,
    lane: Arc<Lane>,
}

impl LaneGuard {
    pub(crate) fn new(registry: Arc<Registry>, tunnel: Arc<Tunnel>, lane: Arc<Lane>) -> Self {
        Self { registry, tunnel, lane }
    }

    /// Returns the lane.
    pub fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// Returns the tunnel that it belongs to.
    pub fn tunnel(&self) -> &Arc<Tunnel> {
        &self.tunnel
    }
}

impl Drop for LaneGuard {
    fn drop(&mut self) {
        if self.tunnel.remove_lane(&self.lane) {
            self.registry.remove(&self.tunnel);
        } else {
            self.registry.notify_changed();
        }
        // Last: no new stream is opened on a lane that is about to close.
        self.lane.session().close();
    }
}
