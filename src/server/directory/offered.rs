//! What a name or a domain leads to on this node.

use std::sync::Arc;

use crate::server::directory::service::Service;
use crate::server::directory::tunnel::Tunnel;

/// A service, and the tunnel that leads to it.
#[derive(Debug)]
pub struct Offered {
    /// The tunnel of the agent that offers the service.
    pub tunnel: Arc<Tunnel>,
    /// The offered service.
    pub service: Arc<Service>,
}
