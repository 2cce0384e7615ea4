//! adit: a self-hosted, multi-tenant tunnel. This page is the map of the house; see `docs/architecture.md`.

pub mod protocol;
pub mod routing;
pub mod transport;
pub mod values;
