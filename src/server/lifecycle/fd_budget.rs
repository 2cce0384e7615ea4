//! How many connections the process accepts, given its limit of file descriptors: each connection takes one.

use crate::server::options::LimitOptions;

/// How many connections may be open at once, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FdBudget {
    /// Connections of visitors.
    pub(crate) connections: usize,
    /// Connections of agents that are not logged in yet.
    pub(crate) logins: usize,
}

impl FdBudget {
    /// Returns the configured limits, lowered to what the process may open. Visitors get at most three quarters of the
    /// file descriptors, and agents that are not logged in an eighth: the rest is for logged-in agents, the admin port and
    /// files.
    pub(crate) fn of(limits: &LimitOptions) -> Self {
        let wanted =
            Self { connections: limits.connections, logins: crate::server::agents::login_limits::MAX_IN_PROGRESS };
        // If the system does not report its limit, the configured ones apply.
        let files = rlimit::Resource::NOFILE.get_soft().ok().and_then(|files| usize::try_from(files).ok());
        files.map_or(wanted, |files| wanted.within(files))
    }

    /// Returns what [`FdBudget::of`] does, and logs a warning if it is less than configured. For a reload; at startup the
    /// command line prints the warning.
    pub(crate) fn of_changed(limits: &LimitOptions) -> Self {
        let budget = Self::of(limits);
        if budget.connections < limits.connections {
            tracing::warn!(
                "this process may open too few files: `limits.connections` is {} and not {}; raise the limit of the \
                 system (`ulimit -n`, `LimitNOFILE=`)",
                budget.connections,
                limits.connections
            );
        }
        budget
    }

    fn within(self, files: usize) -> Self {
        Self { connections: self.connections.min(files / 4 * 3), logins: self.logins.min(files / 8) }
    }
}

/// Returns how many connections of visitors a process accepts that may open `files` files, if `wanted` are configured.
pub fn connections_within(files: u64, wanted: usize) -> usize {
    FdBudget { connections: wanted, logins: 0 }.within(usize::try_from(files).unwrap_or(usize::MAX)).connections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_leave_some_files_for_others() {
        let wanted = FdBudget { connections: 16_384, logins: 1_024 };
        assert_eq!(wanted.within(1_048_576), wanted);
        assert_eq!(wanted.within(1_024), FdBudget { connections: 768, logins: 128 });
        for files in [64, 256, 4_096, 16_384, 20_000] {
            let budget = wanted.within(files);
            assert!(budget.connections + budget.logins <= files - files / 8, "{files}");
        }
    }
}
