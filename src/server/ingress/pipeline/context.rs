//! What every step of one request needs.

use std::net::IpAddr;
use std::sync::Arc;

use crate::server::ingress::connection::ConnectionContext;
use crate::server::ingress::observe::exchange::Exchange;
use crate::server::ingress::patience::Patience;
use crate::server::settings::Settings;
use crate::values::RequestId;

/// One request in the pipeline.
#[derive(Debug)]
pub(crate) struct RequestContext<'a> {
    pub(crate) connection: &'a Arc<ConnectionContext>,
    /// The settings when the request arrived, which apply to all of it.
    pub(crate) settings: &'a Settings,
    pub(crate) request_id: RequestId,
    /// The visitor's address, as trusted proxies report it.
    pub(crate) visitor: IpAddr,
    /// How long the request waits for its application to return.
    pub(crate) patience: Patience,
    pub(crate) exchange: Exchange<'a>,
}
