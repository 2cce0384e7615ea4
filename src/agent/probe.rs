//! Checks once whether the local applications answer, so that a self-hoster learns of a problem before visitors do.

use std::io;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::agent::backend::local::dial::Dialler;
use crate::agent::options::{LocalUrl, Service};
use crate::protocol::login::ServiceKind;
use crate::telemetry::LOCAL_LOG;
use crate::values::Name;

/// How long an application may take to accept a connection.
const DEADLINE: Duration = Duration::from_secs(2);

/// How many are tried at once.
const AT_ONCE: usize = 16;

/// Connects once to each application of `services`, says nothing there, and writes into the log where nothing answers.
pub async fn probe_applications(services: &[Service]) {
    let mut places: Vec<(&Service, &LocalUrl)> = Vec::new();
    for service in services {
        for local in service.locals() {
            if !places.iter().any(|(_, other)| other.place == local.place) {
                places.push((service, local));
            }
        }
    }
    let mut tried = JoinSet::new();
    for (service, local) in places {
        if tried.len() >= AT_ONCE {
            tried.join_next().await;
        }
        if let Some(dialler) = Dialler::new(local, None, DEADLINE) {
            tried.spawn(look(dialler, service.name.clone(), service.kind, local.shown()));
        }
    }
    while tried.join_next().await.is_some() {}
}

async fn look(dialler: Dialler, name: Name, kind: ServiceKind, at: String) {
    let Err(error) = dialler.dial(None).await else { return };
    let until_then = match (kind, error.kind()) {
        (ServiceKind::Http, io::ErrorKind::TimedOut) => "visitors get 504",
        (ServiceKind::Http, _) => "visitors get 502",
        (ServiceKind::Tcp | ServiceKind::Tls, _) => "visitors are turned away",
    };
    tracing::warn!(target: LOCAL_LOG, service = %name, "nothing answers on {at} yet; {until_then} until something does");
}
