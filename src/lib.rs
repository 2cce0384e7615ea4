//! adit: a self-hosted, multi-tenant tunnel. This page is the map of the house; see `docs/architecture.md`.

pub mod auth;
pub mod certs;
pub mod files;
pub mod limits;
pub mod values;
