//! Whether the system allows a server what its configuration does.

use std::fs;

use crate::server::connections_within;
use crate::server::options::ServerOptions;
use crate::transport::listen::BACKLOG;

/// Files of the process that are neither visitors nor agents: listeners, logs, the runtime's own.
const OTHERS: u64 = 100;

/// What Linux itself allows the buffers of a TCP connection to grow to, on a machine that has the memory for it.
const USUAL_BUFFER: u64 = 4 * 1024 * 1024;

/// With less memory Linux allows less: a 128th of it.
const MEMORY_FOR_EACH_BYTE: u64 = 128;

/// What the system allows this process; `None` where it does not say.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct System {
    /// Open files, sockets among them.
    pub(super) files: Option<u64>,
    /// Connections that wait to be taken in (`net.core.somaxconn`).
    pub(super) queue: Option<u64>,
    /// The most that the buffers of a TCP connection hold, in bytes: to be sent (`net.ipv4.tcp_wmem`), and received
    /// (`net.ipv4.tcp_rmem`). A lane cannot have more under way, however large its windows are.
    pub(super) buffers: [Option<u64>; 2],
    /// Connections that a firewall keeps track of (`net.netfilter.nf_conntrack_max`), if there is one.
    pub(super) tracked: Option<u64>,
    /// The machine's memory, in bytes.
    pub(super) memory: Option<u64>,
}

impl System {
    /// Looks; `files` is what the limit of open files was raised to.
    pub(super) fn look(files: Option<u64>) -> Self {
        let last = |path: &str| fs::read_to_string(path).ok()?.split_whitespace().next_back()?.parse().ok();
        Self {
            files,
            queue: last("/proc/sys/net/core/somaxconn"),
            buffers: ["/proc/sys/net/ipv4/tcp_wmem", "/proc/sys/net/ipv4/tcp_rmem"].map(last),
            tracked: last("/proc/sys/net/netfilter/nf_conntrack_max"),
            memory: fs::read_to_string("/proc/meminfo").ok().and_then(|text| memory(&text)),
        }
    }

    /// A line for the log, if it is less than the configuration allows to visitors and agents.
    pub(super) fn advice(self, config: &ServerOptions) -> Option<String> {
        // Each visitor's connection is one, and each agent has a lane at least.
        let connections = config.limits.connections.saturating_add(config.tunnel.max_tunnels);
        let connections = u64::try_from(connections).unwrap_or(u64::MAX);
        let wanted = connections.saturating_add(OTHERS);
        let backlog = u64::from(BACKLOG.unsigned_abs());
        let files = self.files.filter(|files| *files < wanted).map(|files| {
            let (all, taken) = (config.limits.connections, connections_within(files, config.limits.connections));
            let what = match taken < all {
                true => format!("so `limits.connections` is {taken} and not {all}"),
                false => format!("and limits.connections and tunnel.max_tunnels come to {wanted}"),
            };
            format!("{files} open files, {what} (raise LimitNOFILE of the unit or `ulimit -n`, or lower these limits)")
        });
        let queue = self.queue.filter(|queue| *queue < backlog).map(|queue| {
            format!("{queue} connections in a listener's queue instead of {backlog} (sysctl net.core.somaxconn)")
        });
        let tracked = self.tracked.filter(|tracked| *tracked < connections).map(|tracked| {
            format!(
                "{tracked} connections that its firewall keeps track of, and limits.connections and \
                 tunnel.max_tunnels come to {connections} (sysctl net.netfilter.nf_conntrack_max)"
            )
        });
        let usual = self.usual_buffer();
        let buffers =
            ["net.ipv4.tcp_wmem", "net.ipv4.tcp_rmem"].into_iter().zip(self.buffers).filter_map(|(name, most)| {
                let most = most.filter(|most| *most < usual)?;
                Some(format!(
                    "{most} bytes in a connection's buffer, which slows transfers over long lines (sysctl {name})"
                ))
            });
        let parts: Vec<_> = [files, queue, tracked].into_iter().flatten().chain(buffers).collect();
        (!parts.is_empty()).then(|| format!("the system allows {}", parts.join("; and ")))
    }

    /// Less than this is no system as it comes: half of what Linux allows, where memory is what limits it.
    fn usual_buffer(self) -> u64 {
        let for_memory = self.memory.map_or(u64::MAX, |memory| memory / MEMORY_FOR_EACH_BYTE / 2);
        USUAL_BUFFER.min(for_memory)
    }
}

/// What `/proc/meminfo` says of all memory, in bytes.
fn memory(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::schema::{Environment, Flags};

    fn advice(system: System) -> Option<String> {
        let text = "limits.connections = 1000\ntunnel.max_tunnels = 500\n";
        let config =
            ServerOptions::from_text(Path::new("server.toml"), text, &Environment::default(), &Flags::new()).unwrap();
        system.advice(&config)
    }

    /// A machine with 1 GiB as it comes, and no more files and tracked connections than are needed.
    const ENOUGH: System = System {
        files: Some(1600),
        queue: Some(4096),
        buffers: [Some(4 << 20), Some(6 << 20)],
        tracked: Some(1500),
        memory: Some(1 << 30),
    };

    #[test]
    fn only_what_is_too_little_is_named() {
        assert_eq!(advice(ENOUGH), None);
        assert_eq!(advice(System::default()), None);
        let files = advice(System { files: Some(1599), ..ENOUGH }).unwrap();
        assert!(files.contains("1599 open files") && files.contains("1600") && !files.contains("queue"), "{files}");
        let few = advice(System { files: Some(400), ..ENOUGH }).unwrap();
        assert!(
            few.contains("400 open files, so `limits.connections` is 300 and not 1000") && !few.contains("1600"),
            "{few}"
        );
        let both = advice(System { files: Some(1024), queue: Some(128), ..ENOUGH }).unwrap();
        assert!(both.contains("1024 open files") && both.contains("128 connections"), "{both}");
        assert_eq!(both.lines().count(), 1);
        let tracked = advice(System { tracked: Some(1499), ..ENOUGH }).unwrap();
        assert!(tracked.contains("1499 connections") && tracked.contains("nf_conntrack_max"), "{tracked}");
    }

    #[test]
    fn buffers_are_named_when_somebody_has_made_them_small() {
        let small = advice(System { buffers: [Some(4 << 20), Some((4 << 20) - 1)], ..ENOUGH }).unwrap();
        assert!(small.contains("4194303 bytes") && small.contains("tcp_rmem") && !small.contains("wmem"), "{small}");
        // Linux chooses somewhat less than a 128th of the memory.
        for memory in [128_u64 << 20, 256 << 20, 512 << 20, 2 << 30] {
            let stock = (memory / 128 * 9 / 10).min(4 << 20);
            let system = System { buffers: [Some(stock); 2], memory: Some(memory), ..ENOUGH };
            assert_eq!(advice(system), None, "{memory}");
            let lowered = System { buffers: [Some(stock / 3); 2], ..system };
            assert!(advice(lowered).unwrap().contains("tcp_wmem"), "{memory}");
        }
    }

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(memory("MemTotal:         987654 kB\nMemFree: 1 kB\n"), Some(987_654 * 1024));
        assert_eq!(memory("MemFree: 1 kB\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_is_asked() {
        let system = System::look(Some(1));
        assert!(system.queue.is_some() && system.memory.is_some_and(|memory| memory > 1 << 20), "{system:?}");
        assert!(system.buffers.iter().all(|most| most.is_some_and(|most| most > 1000)), "{system:?}");
    }
}
