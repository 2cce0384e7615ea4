//! The framework for configuration files: layers, keys, and every problem at once. It knows nothing of adit's domain and
//! imports nothing.

mod layers;
mod problem;
mod reference;
mod suggestion;
mod table;

/// The value of a flag.
pub use ::config::ValueKind;
pub use layers::{Environment, Flags, TOKEN_VARIABLE};
pub(crate) use layers::{FileText, Origin, check_syntax, file_layer, merge};
pub use problem::{ConfigErrors, Problem};
pub use reference::KeyReference;
pub(crate) use table::{Entry, Report, Table};
