//! adit: a self-hosted, multi-tenant tunnel. This page is the map of the house; see `docs/architecture.md`.

pub mod auth;
pub mod certs;
pub mod config;
pub mod files;
pub mod limits;
pub mod protocol;
pub mod routing;
pub mod transport;
pub mod values;
