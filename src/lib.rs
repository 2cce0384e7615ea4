//! adit: a self-hosted, multi-tenant tunnel. A home server's *agent* dials out to a *server* on a public machine and
//! logs in; *visitors* ask the server for a name, and each request gets a fresh stream to the agent, which asks the
//! *local* application. This page is the map of the house; `docs/architecture.md` tells more.
//!
//! | room | what is in it |
//! | --- | --- |
//! | [`cli`] | one file for each sub-command; the only room that knows both sides |
//! | [`sdk`] | a tower service of this process, served through a tunnel |
//! | [`server`] | the public side: agents in, visitors in, requests across |
//! | [`agent`] | the home side: dial, log in, serve streams from the local application |
//! | [`telemetry`] | logs, histograms, the figures of the process |
//! | [`transport`] | byte pipes and what is laid over them: TLS, coalescing, streams, frames, bodies |
//! | [`access`] | which visitors get to a service |
//! | [`auth`] | tokens, tickets, and who may log in |
//! | [`certs`] | the server's certificate and its fingerprint |
//! | [`config`] | files, environment and flags, resolved with every problem at once |
//! | [`limits`] | rates per address, permits for what runs at once |
//! | [`routing`] | from what a visitor asks for to a name, pure |
//! | [`protocol`] | what crosses the wire, as values and bytes, without I/O |
//! | [`files`] | small files, written whole |
//! | [`values`] | ids, names, secrets |
//!
//! Imports go from the top of this table to its bottom, and the server and the agent never know each other;
//! `tests/layering.rs` holds us to it.
//!
//! To follow one request: [`server::public`] accepts the visitor and reads its head, [`routing`] finds the name,
//! [`server::registry`] the tunnel, [`server::tunnel`] a lane, [`link::mux`] opens the stream; on the other side
//! [`agent`] takes it to the local application, and the answer comes back the same way, piece by piece.

pub mod access;
pub mod agent;
pub mod auth;
pub mod certs;
pub mod cli;
pub mod config;
pub mod files;
pub mod limits;
pub mod link;
pub mod protocol;
pub mod routing;
pub mod schema;
pub mod sdk;
pub mod server;
pub mod telemetry;
pub mod tenants;
pub mod transport;
pub mod values;
