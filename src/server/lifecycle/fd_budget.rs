//! How many connections the process has room for: each takes a file descriptor, and of those there are only so many.

use crate::server::options::LimitOptions;

/// Visitors' connections, and agents' that are not logged in yet, that may be open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FdBudget {
    pub(crate) connections: usize,
    pub(crate) logins: usize,
}

impl FdBudget {
    /// What the configuration says, or what the process may open if that is less. Strangers get three quarters and an
    /// eighth of it at most: the rest is for agents, the admin port and files, which they must not use up.
    pub(crate) fn of(limits: &LimitOptions) -> Self {
        let wanted = Self { connections: limits.connections, logins: crate::server::agents::limits::MAX_IN_PROGRESS };
        // Where the system does not tell, its own limit is all there is.
        let files = rlimit::Resource::NOFILE.get_soft().ok().and_then(|files| usize::try_from(files).ok());
        files.map_or(wanted, |files| wanted.within(files))
    }

    /// As [`FdBudget::of`], and the log says so if that is less: when the limits of a running server change. At its start
    /// whoever starts it says so.
    pub(crate) fn of_changed(limits: &LimitOptions) -> Self {
        let room = Self::of(limits);
        if room.connections < limits.connections {
            tracing::warn!(
                "this process may open too few files: `limits.connections` is {} and not {}; raise the limit of the \
                 system (`ulimit -n`, `LimitNOFILE=`)",
                room.connections,
                limits.connections
            );
        }
        room
    }

    fn within(self, files: usize) -> Self {
        Self { connections: self.connections.min(files / 4 * 3), logins: self.logins.min(files / 8) }
    }
}

/// How many visitors' connections a process that may open so many files takes, if `wanted` are configured.
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
            let room = wanted.within(files);
            assert!(room.connections + room.logins <= files - files / 8, "{files}");
        }
    }
}
