//! From a route to the upstream that serves it.

use std::sync::Arc;

use crate::routing::{Asked, Route, Router};
use crate::server::directory::resolve::{Resolve, Upstream};
use crate::server::ingress::error_page::Failure;
use crate::tenants::clients::Clients;

/// Returns the upstream that a route leads to now.
///
/// # Errors
/// No upstream serves the route: no client may claim it, or no agent of the client offers it.
pub(crate) fn find<D: Resolve>(directory: &D, clients: &Clients, route: &Route) -> Result<Arc<D::Upstream>, Failure> {
    let away = |is_listed: bool| if is_listed { Failure::TunnelOffline } else { Failure::UnknownName };
    match route {
        Route::Service { name, below: false, .. } => {
            let listed = || away(clients.owner_of_name(name).is_some());
            directory.by_name(name).ok_or_else(listed)
        }
        Route::Service { name, below: true, .. } => directory.below_name(name).ok_or_else(|| {
            let may_be = |owner| clients.may_be_wildcard(&owner, name);
            // The agent is connected and does not offer such hosts.
            let is_here = directory.by_name(name).is_some();
            away(!is_here && clients.owner_of_name(name).is_some_and(may_be))
        }),
        Route::Domain(host) => {
            let owner = clients.owner_of_domain(host);
            // A client with a verified wildcard does not serve a host below it that the operator has assigned to another.
            let is_its = |upstream: &Arc<D::Upstream>| owner.as_ref().is_none_or(|owner| owner == upstream.client());
            directory.by_domain(host).filter(is_its).ok_or_else(|| away(owner.is_some()))
        }
        Route::Own | Route::Unknown => Err(Failure::UnknownName),
    }
}

/// Returns whether visitors may ask for `host`, which is a host name: the domain itself, or a host that a client offers or
/// may offer.
pub(crate) fn is_served<D: Resolve>(directory: &D, clients: &Clients, router: &Router, host: &str) -> bool {
    match router.route(Asked { authority: Some(host), path: "/", header: None }) {
        Route::Own => true,
        route => matches!(find(directory, clients, &route), Ok(_) | Err(Failure::TunnelOffline)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::RoutingMode;
    use crate::server::ingress::upstream::testing::{FakePeer, FixedDirectory};
    use crate::tenants::entry::ClientsFile;

    const CLIENTS: &str = "
        [clients.alice]
        token_hash = '$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$cGFzc3dvcmRwYXNzd29yZA'
        names = ['blog', 'shop', '*.blog']
        domains = ['own.example']

        [clients.bob]
        token_hash = '$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$cGFzc3dvcmRwYXNzd29yZA'
    ";

    fn clients() -> Clients {
        Clients::new(ClientsFile::from_text(std::path::Path::new("clients.toml"), CLIENTS).unwrap())
    }

    fn directory() -> FixedDirectory {
        let peer = |client| vec![FakePeer::new(client, Ok(()))];
        FixedDirectory {
            names: [("blog".parse().unwrap(), peer("alice"))].into(),
            domains: [("own.example".to_owned(), peer("bob")), ("free.example".to_owned(), peer("bob"))].into(),
        }
    }

    #[test]
    fn a_route_leads_to_an_upstream_of_any_directory() {
        let (directory, clients) = (directory(), clients());
        let router = Router::new("tunnel.example", [RoutingMode::Subdomain]);
        let found = |host: &str| {
            let route = router.route(Asked { authority: Some(host), path: "/", header: None });
            find(&directory, &clients, &route).map(|upstream| upstream.client().to_string())
        };
        assert_eq!(found("blog.tunnel.example"), Ok("alice".to_owned()));
        assert_eq!(found("shop.tunnel.example"), Err(Failure::TunnelOffline));
        assert_eq!(found("nobody.tunnel.example"), Err(Failure::UnknownName));
        assert_eq!(found("a.blog.tunnel.example"), Err(Failure::UnknownName), "its agent does not offer that");
        assert_eq!(found("free.example"), Ok("bob".to_owned()), "verified by DNS");
        assert_eq!(found("own.example"), Err(Failure::TunnelOffline), "the operator has assigned it to alice");
        assert_eq!(found("other.example"), Err(Failure::UnknownName));
        let is_served = |host: &str| is_served(&directory, &clients, &router, host);
        assert!(["tunnel.example", "shop.tunnel.example", "free.example"].into_iter().all(is_served));
        assert!(!["nobody.tunnel.example", "other.example"].into_iter().any(is_served));
    }
}
