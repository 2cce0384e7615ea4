//! The endpoint for services: what each name leads to.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ApiError;
use super::extract::InQuery;
use super::page::{ClientPageQuery, Page};
use super::refusals::{Misread, Refusals};
use super::tunnels;
use crate::protocol::login::ServiceKind;
use crate::server::directory::PublicListeners;
use crate::server::directory::registry::Registry;
use crate::server::settings::Settings;

/// What is offered under one name.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Service)]
pub(crate) struct ServiceView {
    name: String,
    client: String,
    kind: KindView,
    /// Whether it answers for every host below its name, too.
    wildcard: bool,
    /// Domains of the client's own under which it can be reached.
    domains: Vec<String>,
    /// The group whose agents share its visitors.
    group: Option<String>,
    /// The public port of a `tcp` service.
    port: Option<u16>,
    /// The ids of the tunnels that offer it.
    tunnels: Vec<String>,
    /// Where visitors reach it.
    public_urls: Vec<String>,
}

/// What a service carries.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ServiceKind)]
pub(crate) enum KindView {
    Http,
    Tcp,
    Tls,
}

impl From<ServiceKind> for KindView {
    fn from(kind: ServiceKind) -> Self {
        match kind {
            ServiceKind::Http => Self::Http,
            ServiceKind::Tcp => Self::Tcp,
            ServiceKind::Tls => Self::Tls,
        }
    }
}

/// Lists what is offered
///
/// One entry for each name that leads somewhere at the moment.
#[utoipa::path(
    get, path = "/api/v1/services", tag = "tunnels", operation_id = "list_services", params(ClientPageQuery),
    responses((status = 200, body = Page<ServiceView>), Refusals, Misread),
)]
pub(crate) async fn list(
    State(registry): State<Arc<Registry>>,
    State(listeners): State<PublicListeners>,
    State(settings): State<Arc<Settings>>,
    InQuery(query): InQuery<ClientPageQuery>,
) -> Result<Json<Page<ServiceView>>, ApiError> {
    let (page, client) = query.split()?;
    let urls = listeners.urls(&settings);
    let mut by_name: BTreeMap<String, ServiceView> = BTreeMap::new();
    for tunnel in tunnels::of(&registry, client) {
        for service in registry.held(&tunnel) {
            let offer = service.offer();
            let view = by_name.entry(offer.name.to_string()).or_insert_with_key(|name| ServiceView {
                name: name.clone(),
                client: tunnel.client().to_string(),
                kind: offer.kind.into(),
                wildcard: offer.wildcard,
                domains: offer.domains.iter().map(ToString::to_string).collect(),
                group: offer.group.as_ref().map(ToString::to_string),
                port: service.port(),
                tunnels: Vec::new(),
                public_urls: urls.of(&service),
            });
            view.tunnels.push(tunnel.id().to_string());
        }
    }
    page.page(by_name, |(name, _)| name.clone(), |(_, view)| Some(view))
}
