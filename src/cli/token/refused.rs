//! A refused change, reported in terms of the command line.

use std::path::Path;

use crate::cli::Failure;
use crate::tenants::edit_error::EditError;
use crate::tenants::list_change::ListItem;
use crate::values::ClientId;

/// The arguments that request the change, as they were typed.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) id: Option<ClientId>,
    pub(super) names: Option<String>,
    pub(super) domains: Option<String>,
    pub(super) tcp_ports: Option<String>,
}

impl Asked {
    /// Returns the failure for a change to the clients file at `file`, which names the arguments that the file does not
    /// allow.
    pub(super) fn failure(&self, file: &Path, error: EditError) -> Failure {
        let EditError::Refused(errors) = error else { return Failure::edit(file, error) };
        let complain = |key: &str, message: &str| match self.argument(key) {
            Some(argument) => format!("{argument}: {message}"),
            None => format!("{key}: {message}"),
        };
        let complaints = errors.problems.iter().map(|problem| complain(&problem.key, &problem.message));
        Failure::Other(complaints.collect::<Vec<_>>().join("\n"))
    }

    /// Returns the argument that has led to the problem with this key. A problem with the whole client concerns its names,
    /// or its id if it has no others.
    fn argument(&self, key: &str) -> Option<String> {
        let (flag, given) = match key.rsplit('.').next() {
            Some("domains") => ("--domains", &self.domains),
            Some("tcp_ports") => ("--tcp-ports", &self.tcp_ports),
            _ => ("--names", &self.names),
        };
        let flag = given.as_ref().map(|given| format!("{flag} {given}"));
        flag.or_else(|| self.id.as_ref().map(|id| format!("ID {id}")))
    }
}

/// Returns several values as they are typed in one argument.
pub(super) fn typed<T: ListItem>(values: &[T]) -> Option<String> {
    (!values.is_empty()).then(|| values.iter().map(T::text).collect::<Vec<_>>().join(","))
}
