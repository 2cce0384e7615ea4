//! A change that cannot be, in the words of the command line.

use crate::cli::Failure;
use crate::tenants::edit::EditError;
use crate::values::ClientId;

/// What was asked for by which argument, as it is typed.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) id: Option<ClientId>,
    pub(super) names: Option<String>,
    pub(super) domains: Option<String>,
    pub(super) tcp_ports: Option<String>,
}

impl Asked {
    /// Says which argument it was that the clients file does not allow; other errors stay as they are.
    pub(super) fn name(&self, error: EditError) -> Failure {
        let EditError::Refused(errors) = error else { return error.into() };
        let complain = |key: &str, message: &str| match self.argument(key) {
            Some(argument) => format!("{argument}: {message}"),
            None => format!("{key}: {message}"),
        };
        let complaints = errors.problems.iter().map(|problem| complain(&problem.key, &problem.message));
        Failure::Other(complaints.collect::<Vec<_>>().join("\n"))
    }

    /// The argument that has led to the problem with this key. A problem with the client as a whole is one with its names,
    /// and without any, its id is its name.
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

/// Several values, as one argument has them.
pub(super) fn typed<T>(values: &[T], text_of: impl Fn(&T) -> String) -> Option<String> {
    (!values.is_empty()).then(|| values.iter().map(text_of).collect::<Vec<_>>().join(","))
}
