//! adit: a self-hosted, multi-tenant tunnel. A home server's *agent* dials out to a *server* on a public machine and logs in.
//! *Visitors* ask the server for a name; each request gets a fresh stream to the agent, which passes it to the *local*
//! application. `docs/architecture.md` has more than this overview.
//!
//! | module | contents |
//! | --- | --- |
//! | [`cli`] | the sub-commands |
//! | [`sdk`] | serves a tower service of this process through a tunnel |
//! | [`config`] | `adit check` and the reference of all keys |
//! | [`server`] | the public side: agents, visitors, the admin port |
//! | [`agent`] | the home side: dials, logs in, serves streams from backends |
//! | [`telemetry`] | logs, histograms, process figures, traces |
//! | [`link`] | sessions and streams between agent and server, and what crosses a stream |
//! | [`transport`] | sockets, TLS, the PROXY protocol, helpers for HTTP bodies |
//! | [`access`] | which visitors may use a service |
//! | [`tenants`] | which clients may log in, and what they own |
//! | [`auth`] | tokens, tickets, invitations |
//! | [`certs`] | certificate sources and fingerprints |
//! | [`limits`] | rates, permits, byte budgets, fair queues |
//! | [`schema`] | the framework for configuration files |
//! | [`routing`] | from a request to a name; pure |
//! | [`protocol`] | the wire format as values and bytes, without I/O |
//! | [`files`] | atomic writes, locks, watching |
//! | [`values`] | ids, names, secrets |
//!
//! Imports go downward only, and `server` and `agent` never import each other; `tests/layering` enforces it.
//!
//! To follow one request: [`server::ingress`] accepts the visitor and reads the head, [`routing`] finds the name,
//! [`server::directory`] the tunnel, and [`link::carriers::mux`] opens a stream; on the other side [`agent`] passes the request to a
//! backend, and the response comes back the same way, piece by piece.

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
