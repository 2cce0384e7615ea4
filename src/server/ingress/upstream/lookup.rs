//! From a route to what is offered there, or why there is nothing.

use std::sync::Arc;

use crate::routing::{Asked, Route};
use crate::server::directory::offered::Offered;
use crate::server::ingress::Ingress;
use crate::server::ingress::error_page::Failure;

/// What a route leads to at this moment.
pub(crate) fn offered(ingress: &Ingress, route: &Route) -> Result<Arc<Offered>, Failure> {
    let away = |is_listed: bool| if is_listed { Failure::TunnelOffline } else { Failure::UnknownName };
    match route {
        Route::Service { name, below: false, .. } => {
            let listed = || away(ingress.directory.clients.owner_of_name(name).is_some());
            ingress.directory.registry.by_name(name).ok_or_else(listed)
        }
        Route::Service { name, below: true, .. } => ingress.directory.registry.below_name(name).ok_or_else(|| {
            let may_be = |owner| ingress.directory.clients.may_be_wildcard(&owner, name);
            // Its agent is here, and does not want such hosts.
            let is_here = ingress.directory.registry.by_name(name).is_some();
            away(!is_here && ingress.directory.clients.owner_of_name(name).is_some_and(may_be))
        }),
        Route::Domain(host) => {
            let owner = ingress.directory.clients.owner_of_domain(host);
            // Whoever has proved a wildcard does not stand in for a host below it that the operator has given to another.
            let is_its = |offered: &Arc<Offered>| owner.as_ref().is_none_or(|owner| owner == offered.tunnel.client());
            ingress.directory.registry.by_domain(host).filter(is_its).ok_or_else(|| away(owner.is_some()))
        }
        Route::AddSlash | Route::Own | Route::Unknown => Err(Failure::UnknownName),
    }
}

/// Whether visitors may ask for `host`, which is a host name: the domain itself, or one under which something is offered
/// or could be.
pub(crate) fn is_served(ingress: &Ingress, host: &str) -> bool {
    match ingress.settings().router.route(Asked { authority: Some(host), path: "/", header: None }) {
        Route::Own => true,
        route => matches!(offered(ingress, &route), Ok(_) | Err(Failure::TunnelOffline)),
    }
}
