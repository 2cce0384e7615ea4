//! Looks up the service at a route.

use std::sync::Arc;

use crate::routing::{Asked, Route};
use crate::server::directory::Directory;
use crate::server::directory::offered::Offered;
use crate::server::ingress::Ingress;
use crate::server::ingress::error_page::Failure;

/// Returns the service at `route`.
///
/// # Errors
/// No agent serves the route now, or no client may.
pub(crate) fn offered(directory: &Directory, route: &Route) -> Result<Arc<Offered>, Failure> {
    let offline = |is_listed: bool| if is_listed { Failure::TunnelOffline } else { Failure::UnknownName };
    match route {
        Route::Service { name, below: false, .. } => {
            let listed = || offline(directory.clients.owner_of_name(name).is_some());
            directory.registry.by_name(name).ok_or_else(listed)
        }
        Route::Service { name, below: true, .. } => directory.registry.below_name(name).ok_or_else(|| {
            let may_be = |owner| directory.clients.may_be_wildcard(&owner, name);
            // The agent is connected and does not serve hosts below its name.
            let is_here = directory.registry.by_name(name).is_some();
            offline(!is_here && directory.clients.owner_of_name(name).is_some_and(may_be))
        }),
        Route::Domain(host) => {
            let owner = directory.clients.owner_of_domain(host);
            // A verified wildcard does not cover a host that the operator has given to another client.
            let is_owned = |offered: &Arc<Offered>| owner.as_ref().is_none_or(|owner| owner == offered.tunnel.client());
            directory.registry.by_domain(host).filter(is_owned).ok_or_else(|| offline(owner.is_some()))
        }
        Route::AddSlash | Route::Own | Route::Unknown => Err(Failure::UnknownName),
    }
}

/// Returns whether visitors may request `host`: the domain itself, or a host name that serves or could serve a service.
pub(crate) fn is_served(ingress: &Ingress, host: &str) -> bool {
    match ingress.settings().router.route(Asked { authority: Some(host), path: "/", header: None }) {
        Route::Own => true,
        route => matches!(offered(&ingress.directory, &route), Ok(_) | Err(Failure::TunnelOffline)),
    }
}
