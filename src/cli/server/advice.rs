//! Whether the system allows a server what its configuration does.

use crate::config::ServerConfig;
use crate::transport::listen::BACKLOG;

/// Files of the process that are neither visitors nor agents: listeners, logs, the runtime's own.
const OTHERS: u64 = 100;

/// What the system allows this process; `None` where it does not say.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct System {
    /// Open files, sockets among them.
    pub(super) files: Option<u64>,
    /// Connections that wait to be taken in (`net.core.somaxconn`).
    pub(super) queue: Option<u64>,
}

impl System {
    /// Looks; `files` is what the limit of open files was raised to.
    pub(super) fn look(files: Option<u64>) -> Self {
        let queue = std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok();
        Self { files, queue: queue.and_then(|queue| queue.trim().parse().ok()) }
    }

    /// A line for the log, if it is less than the configuration allows to visitors and agents.
    pub(super) fn advice(self, config: &ServerConfig) -> Option<String> {
        // Each visitor's connection is one, and each agent has a lane at least.
        let wanted = config.limits.connections.saturating_add(config.tunnel.max_tunnels);
        let wanted = u64::try_from(wanted).unwrap_or(u64::MAX).saturating_add(OTHERS);
        let backlog = u64::from(BACKLOG.unsigned_abs());
        let files = self.files.filter(|files| *files < wanted).map(|files| {
            format!(
                "{files} open files, and limits.connections and tunnel.max_tunnels come to {wanted} \
                 (raise LimitNOFILE of the unit or `ulimit -n`, or lower these)"
            )
        });
        let queue = self.queue.filter(|queue| *queue < backlog).map(|queue| {
            format!("{queue} connections in a listener's queue instead of {backlog} (sysctl net.core.somaxconn)")
        });
        let parts: Vec<_> = [files, queue].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("the system allows {}", parts.join("; and ")))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Environment, Flags};

    #[test]
    fn only_what_is_too_little_is_named() {
        let text = "limits.connections = 1000\ntunnel.max_tunnels = 500\n";
        let config =
            ServerConfig::from_text(Path::new("server.toml"), text, &Environment::default(), &Flags::new()).unwrap();
        let advice = |files, queue| System { files: Some(files), queue: Some(queue) }.advice(&config);
        assert_eq!(advice(1600, 4096), None);
        assert_eq!(System::default().advice(&config), None);
        let files = advice(1599, 4096).unwrap();
        assert!(files.contains("1599 open files") && files.contains("1600") && !files.contains("queue"), "{files}");
        let both = advice(1024, 128).unwrap();
        assert!(both.contains("1024 open files") && both.contains("128 connections"), "{both}");
        assert_eq!(both.lines().count(), 1);
    }
}
