//! The components that handlers ask for. A handler receives only those that it uses.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::FromRef;
use bytes::Bytes;

use crate::server::admin::Admin;
use crate::server::admin::client_editor::ClientEditor;
use crate::server::directory::PublicListeners;
use crate::server::directory::registry::Registry;
use crate::server::ingress::observe::live_requests::LiveRequests;
use crate::server::lifecycle::Lifecycle;
use crate::server::runtime::Shutdown;
use crate::server::settings::Settings;
use crate::telemetry::LogLevel;
use crate::tenants::clients::Clients;
use crate::values::Fingerprint;

/// The state of the router: where the components come from.
#[derive(Clone)]
pub(crate) struct Components(pub(crate) Arc<Admin>);

/// Implements [`FromRef`] for a component.
macro_rules! component {
    ($component:ty, |$admin:ident| $value:expr) => {
        impl FromRef<Components> for $component {
            fn from_ref(Components($admin): &Components) -> Self {
                $value
            }
        }
    };
}

component!(ClientEditor, |admin| Self::new(&admin.lifecycle.agents));
component!(Arc<Clients>, |admin| Arc::clone(&admin.lifecycle.directory.clients));
component!(Arc<Lifecycle>, |admin| Arc::clone(&admin.lifecycle));
component!(Arc<LiveRequests>, |admin| Arc::clone(&admin.lifecycle.ingress.observers.live));
component!(Arc<Registry>, |admin| Arc::clone(&admin.lifecycle.directory.registry));
component!(Arc<Settings>, |admin| admin.lifecycle.settings());
component!(Option<LogLevel>, |admin| admin.log.clone());
component!(PublicListeners, |admin| admin.lifecycle.directory.listeners);
component!(Shutdown, |admin| admin.lifecycle.runtime.shutdown.clone());
component!(Started, |admin| Self(admin.started));
component!(ApiDescription, |admin| Self(admin.description.get().cloned().unwrap_or_default()));
component!(InvitePin, |admin| Self(admin.pin));

/// When the server started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Started(pub(crate) Instant);

/// The encoded description of the API.
#[derive(Debug, Clone)]
pub(crate) struct ApiDescription(pub(crate) Bytes);

/// The fingerprint that invitations pin; `None` if the certificate is not issued by the local CA and may change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InvitePin(pub(crate) Option<Fingerprint>);
