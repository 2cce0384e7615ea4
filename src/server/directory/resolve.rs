//! The interface of the directory for requests: where is a name served?
//!
//! Everything that a request needs is behind [`Resolve`], and static dispatch keeps it free of cost. [`Registry`] answers
//! for the tunnels of this node. A directory of several nodes answers with an upstream that is either one of those tunnels or
//! another node.

use std::sync::Arc;
use std::time::Duration;

use crate::link::session::Stream;
use crate::server::directory::offered::Offered;
use crate::server::directory::registry::Registry;
use crate::server::directory::tunnel::{OpenFailure, StreamPermit};
use crate::values::{ClientId, Name, TunnelId};

/// Finds the upstream of a name or a domain. No method waits.
pub(crate) trait Resolve {
    /// Where a request is sent.
    type Upstream: Upstream;

    /// Returns an upstream of `name`. If there are several, returns the one with the lowest load.
    fn by_name(&self, name: &Name) -> Option<Arc<Self::Upstream>>;

    /// Returns an upstream of the hosts below `name`.
    fn below_name(&self, name: &Name) -> Option<Arc<Self::Upstream>>;

    /// Returns an upstream of `host`, as a domain of a client's own or by a `*.` domain above it. Lower case, without a
    /// final dot.
    fn by_domain(&self, host: &str) -> Option<Arc<Self::Upstream>>;

    /// Returns another upstream of the same service that is not in `tried` and admits the same visitors.
    fn another(&self, upstream: &Self::Upstream, tried: &[TunnelId]) -> Option<Arc<Self::Upstream>>;
}

/// Where a request can be sent.
pub(crate) trait Upstream: Send + Sync {
    /// An open stream, with the permits that it holds.
    type Stream;

    /// Returns the client whose service it is.
    fn client(&self) -> &ClientId;

    /// Returns the tunnel that it leads to.
    fn tunnel(&self) -> TunnelId;

    /// Opens a stream and sends `first` on it.
    ///
    /// # Errors
    /// Nothing was sent. [`OpenFailure`] says whether another upstream may succeed.
    fn open(&self, first: &[u8], deadline: Duration) -> impl Future<Output = Result<Self::Stream, OpenFailure>> + Send;
}

impl Resolve for Registry {
    type Upstream = Offered;

    fn by_name(&self, name: &Name) -> Option<Arc<Offered>> {
        self.by_name(name)
    }

    fn below_name(&self, name: &Name) -> Option<Arc<Offered>> {
        self.below_name(name)
    }

    fn by_domain(&self, host: &str) -> Option<Arc<Offered>> {
        self.by_domain(host)
    }

    fn another(&self, upstream: &Offered, tried: &[TunnelId]) -> Option<Arc<Offered>> {
        self.another(upstream, tried)
    }
}

impl Upstream for Offered {
    type Stream = (Stream, StreamPermit);

    fn client(&self) -> &ClientId {
        self.tunnel.client()
    }

    fn tunnel(&self) -> TunnelId {
        self.tunnel.id()
    }

    fn open(&self, first: &[u8], deadline: Duration) -> impl Future<Output = Result<Self::Stream, OpenFailure>> + Send {
        self.tunnel.open(first, deadline, self.service.streams())
    }
}
