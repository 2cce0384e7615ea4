//! Configuration files as a whole: which keys there are, and whether a file is right (`adit check`).
//!
//! The options themselves belong to the modules that they configure.
//!
//! - `check`: `adit check`
//! - `reference`: every key, for documents

mod check;
mod reference;
#[cfg(test)]
mod samples;

pub use check::{Checked, Kind, check, check_with};
pub use reference::every_key;
