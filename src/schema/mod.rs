//! The framework for configuration files: layers, keys, and every problem at once. It knows nothing of adit's domain and
//! imports nothing.
//!
//! A module declares its options with [`options!`]: one row per key, with the key's name, type, default, bounds and
//! documentation, and whether a change applies on reload or on restart. From that row follow how the key is read and
//! checked, its row in the reference, and what a reload reports. Sections whose keys depend on each other read them
//! one by one with [`Table::get`] and the same [`Key`]s.
//!
//! - `layers`: file, environment and flags, merged into one tree of values that remember where they came from
//! - `table`, `entry`: the walk over that tree
//! - `key`: how a value is read, and what documents say of it
//! - `section`: [`options!`], and what changes on reload
//! - `report`: the problems found, unknown keys among them; `problem`: how they print
//! - `reference`: what documents say of each key

mod entry;
pub(crate) mod key;
mod layers;
mod problem;
mod reference;
mod report;
mod section;
mod table;

/// The value of a flag.
pub use ::config::ValueKind;
pub(crate) use entry::Entry;
pub(crate) use key::Key;
pub use layers::{Environment, Flags, TOKEN_VARIABLE};
pub(crate) use layers::{FileText, Origin, check_syntax, file_layer, merge};
pub use problem::{ConfigErrors, Problem};
pub use reference::KeyReference;
pub(crate) use report::Report;
pub(crate) use section::{Group, Reload, Section, options};
pub(crate) use table::Table;
