//! What the system says of this process.

use std::time::{SystemTime, UNIX_EPOCH};

/// Parts of a second in which Linux tells user programs about time (`USER_HZ`, proc(5)): 100 on every machine that this
/// program is built for.
const TICKS: f64 = 100.0;

/// The figures of a process that every watcher wants. What the system does not tell is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ProcessFigures {
    /// Bytes of memory that are really there.
    pub resident: Option<u64>,
    /// Bytes of addresses.
    pub addresses: Option<u64>,
    /// Processor time so far, in seconds, in the program and for it in the kernel.
    pub cpu: Option<f64>,
    /// Threads.
    pub threads: Option<u64>,
    /// Open files, sockets among them.
    pub files: Option<u64>,
    /// How many files may be open.
    pub most_files: Option<u64>,
}

impl ProcessFigures {
    /// Asks the system. Blocks on it for a moment.
    pub fn now() -> Self {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let (status, stat) = (read("status"), read("stat"));
        Self {
            resident: kib(&status, "VmRSS:"),
            addresses: kib(&status, "VmSize:"),
            cpu: cpu(&stat),
            threads: field(&status, "Threads:"),
            files: std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64),
            most_files: rlimit::Resource::NOFILE.get_soft().ok(),
        }
    }
}

/// The moment, in seconds since 1970.
pub fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn field(status: &str, name: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn kib(status: &str, name: &str) -> Option<u64> {
    field(status, name).map(|kib| kib * 1024)
}

/// Fields 14 and 15 of `stat`. The second one is the program's name, in which anything may be: what counts comes behind
/// its last parenthesis.
fn cpu(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut ticks = rest.split_whitespace().skip(11).map(str::parse::<u64>);
    let (user, system) = (ticks.next()?.ok()?, ticks.next()?.ok()?);
    Some((user + system) as f64 / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says_is_read_whatever_the_program_is_called() {
        let status = "Name:\tadit\nVmSize:\t  2048 kB\nVmRSS:\t   1024 kB\nThreads:\t3\n";
        assert_eq!((kib(status, "VmRSS:"), kib(status, "VmSize:")), (Some(1_048_576), Some(2_097_152)));
        assert_eq!((field(status, "Threads:"), field(status, "VmSwap:")), (Some(3), None));
        let stat = "1 (a) b) S 0 1 1 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 3 0 1 1 1";
        assert_eq!(cpu(stat), Some(3.0));
        assert_eq!((cpu(""), cpu("1 (a) S 0")), (None, None));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_figures() {
        let now = ProcessFigures::now();
        assert!(now.resident.unwrap() > 0 && now.addresses.unwrap() >= now.resident.unwrap(), "{now:?}");
        assert!(now.files.unwrap() > 2 && now.most_files.unwrap() >= now.files.unwrap(), "{now:?}");
        assert!(now.threads.unwrap() > 0 && now.cpu.is_some(), "{now:?}");
    }
}
