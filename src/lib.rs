//! adit: a self-hosted, multi-tenant tunnel. This page is the map of the house; see `docs/architecture.md`.

pub mod config;
pub mod values;
