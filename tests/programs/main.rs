//! The program as people use it: real processes of `adit`, in front of local applications that are not ours
//! (`python3 -m http.server`, nginx), asked by `curl`.
//!
//! python3, nginx and curl have to be installed; what is missing fails the tests, nothing is skipped. Every test has ports,
//! folder and processes of its own, so all of them run side by side.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "nothing here runs on an async runtime, and a test stops at the first surprise"
)]

mod processes;
mod setup;
mod stand_in;
mod visitor;

mod admin;
mod at_home;
mod certificates;
mod configuration;
mod crowds;
#[cfg(target_os = "linux")]
mod descriptors;
mod first_steps;
mod login;
mod logs;
#[cfg(unix)]
mod managed;
mod mistakes;
mod outages;
#[cfg(unix)]
mod owners;
mod reload;
#[cfg(target_os = "linux")]
mod restarts;
mod secrecy;
mod sharing;
mod stopping;
mod tokens;
mod visitors;
mod volume;
mod waiting;
