//! Processes of a test: their output is collected line by line, they are awaited by what they print, and they end with
//! the test.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for anything before it fails. Generous: a busy machine is no failure.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// How often something is looked at that tells nobody when it changes.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The real program, free of settings that the environment of the test might bring.
pub(crate) fn adit() -> Command {
    let mut command = tool(env!("CARGO_BIN_EXE_adit"));
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("ADIT_") {
            command.env_remove(key);
        }
    }
    command.env_remove("RUST_LOG").env("NO_COLOR", "1");
    // Nor a login that somebody has kept on this machine.
    command.env("XDG_CONFIG_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/nothing-kept"));
    command
}

/// A program that must be installed. Some systems keep nginx where only root looks.
pub(crate) fn tool(name: &str) -> Command {
    let mut path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    path.push(":/usr/sbin:/sbin");
    let mut command = Command::new(name);
    command.env("PATH", path);
    command
}

/// The same command on a terminal of its own, as a person starts it. It gets the terminal's hang-up when the test is done
/// with it, also where whoever runs the tests ignores those (`nohup`).
pub(crate) fn on_a_terminal(command: &Command) -> Command {
    let mut terminal = tool("python3");
    let spawn = "import os, pty, signal, sys\n\
                 signal.signal(signal.SIGHUP, signal.SIG_DFL)\n\
                 sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    terminal.args(["-c", spawn]);
    terminal.arg(command.get_program()).args(command.get_args());
    terminal.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    for variable in ["RUST_LOG", "NOTIFY_SOCKET", "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID"] {
        if !command.get_envs().any(|(key, value)| key == variable && value.is_some()) {
            terminal.env_remove(variable);
        }
    }
    terminal
}

/// Runs a command to its end as a person at a terminal does, who sees all that it prints in one place.
pub(crate) fn run_on_a_terminal(name: &str, command: &Command) -> Ended {
    let ended = run(name, on_a_terminal(command));
    let seen = ended.stdout.replace('\r', "");
    Ended { code: ended.code, stdout: seen.clone(), stderr: seen }
}

/// Looks again and again until `look` has something; fails after `limit`. For what no line of output announces.
pub(crate) fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(LOOK_AGAIN);
    }
}

/// A running process. It is killed when the test is done with it.
pub(crate) struct Program {
    name: String,
    child: Child,
    output: Arc<Output>,
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

#[derive(Default)]
struct Output {
    collected: Mutex<Collected>,
    news: Condvar,
}

#[derive(Default)]
struct Collected {
    lines: Vec<(Source, String)>,
    /// Pipes that have not ended yet.
    open: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Stdout,
    Stderr,
}

impl Program {
    /// Starts `command`.
    pub(crate) fn start(name: &str, command: Command) -> Self {
        Self::start_to(Stdio::piped(), name, command)
    }

    /// The same, and what it prints to its standard output goes there: it is not collected.
    pub(crate) fn start_to(stdout: impl Into<Stdio>, name: &str, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!("cannot start {name} ({:?}), is it installed? {error}", command.get_program())
        });
        let output = Arc::new(Output::default());
        output.collected.lock().unwrap().open = 1 + usize::from(child.stdout.is_some());
        if let Some(pipe) = child.stdout.take() {
            collect(pipe, Source::Stdout, Arc::clone(&output));
        }
        collect(child.stderr.take().unwrap(), Source::Stderr, Arc::clone(&output));
        Self { name: name.to_owned(), child, output }
    }

    /// Waits for a line with `text` in it, and gives it.
    pub(crate) fn line(&self, text: &str) -> String {
        self.lines(text, 1).remove(0)
    }

    /// Waits for a line with `text` in it. Returns `false` if the process ends without one.
    pub(crate) fn line_or_end(&self, text: &str) -> bool {
        self.wait(|collected| collected.lines.iter().any(|(_, line)| line.contains(text)).then_some(())).is_some()
    }

    /// Waits for so many lines with `text` in them.
    pub(crate) fn lines(&self, text: &str, count: usize) -> Vec<String> {
        let find = |collected: &Collected| {
            let lines = collected.lines.iter().map(|(_, line)| line).filter(|line| line.contains(text));
            let lines: Vec<String> = lines.take(count).cloned().collect();
            (lines.len() == count).then_some(lines)
        };
        self.wait(find).unwrap_or_else(|| panic!("no {count} lines with `{text}` from {self:?}"))
    }

    /// Waits until the process ends by itself.
    pub(crate) fn ended(&mut self) -> Ended {
        // Both pipes end with the process.
        let output = self.wait(|collected| (collected.open == 0).then(|| collected.lines.clone()));
        let output = output.unwrap_or_else(|| panic!("it does not end: {self:?}"));
        let text = |wanted| {
            let lines = output.iter().filter(|(source, _)| *source == wanted).map(|(_, line)| format!("{line}\n"));
            lines.collect()
        };
        let status = self.child.wait().unwrap();
        Ended { code: status.code(), stdout: text(Source::Stdout), stderr: text(Source::Stderr) }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal (`TERM`, `INT`, `STOP`, `CONT`).
    pub(crate) fn signal(&self, signal: &str) {
        // Not the program of this name but what every shell has built in.
        let script = ["-c", "kill -s \"$0\" \"$1\"", signal, &self.child.id().to_string()];
        assert!(Command::new("sh").args(script).status().unwrap().success(), "cannot send {signal} to {self:?}");
    }

    /// Signals the program that [`on_a_terminal`] runs.
    pub(crate) fn signal_on_terminal(&self, signal: &str) {
        let id = self.child.id();
        let child = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        let script = ["-c", "kill -s \"$0\" \"$1\"", signal, child.trim()];
        assert!(Command::new("sh").args(script).status().unwrap().success(), "cannot send {signal} to {self:?}");
    }

    /// Ends the process as a power cut would: it learns nothing of it.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Everything it has printed so far.
    pub(crate) fn printed(&self) -> String {
        self.output.collected.lock().unwrap().to_string()
    }

    /// Its command line, and its environment (`proc_pid_cmdline(5)`, `proc_pid_environ(5)`).
    pub(crate) fn told_by_the_system(&self) -> [String; 2] {
        ["cmdline", "environ"].map(|what| {
            let bytes = fs::read(format!("/proc/{}/{what}", self.child.id())).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        })
    }

    /// Waits until SIGHUP does not end it any more (`SigCgt` of `proc_pid_status(5)`).
    pub(crate) fn hears_hangups(&self) {
        until("a process that hears SIGHUP", DEADLINE, || {
            let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
            // Signals count from one, and this is the first.
            (u64::from_str_radix(caught.trim(), 16).unwrap() & 1 == 1).then_some(())
        });
    }

    /// The most memory it ever had, in bytes (`VmHWM` of `proc_pid_status(5)`).
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    fn wait<T>(&self, look: impl Fn(&Collected) -> Option<T>) -> Option<T> {
        let started = Instant::now();
        let mut collected = self.output.collected.lock().unwrap();
        loop {
            if let Some(found) = look(&collected) {
                return Some(found);
            }
            // A process that is gone says nothing more.
            let left = DEADLINE.checked_sub(started.elapsed()).filter(|_| collected.open > 0)?;
            collected = self.output.news.wait_timeout(collected, left).unwrap().0;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {}), which has printed:\n{}", self.name, self.child.id(), self.printed())
    }
}

impl fmt::Display for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|(_, line)| writeln!(f, "{line}"))
    }
}

fn collect(pipe: impl Read + Send + 'static, source: Source, output: Arc<Output>) {
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            output.collected.lock().unwrap().lines.push((source, text));
            output.news.notify_all();
            line.clear();
        }
        output.collected.lock().unwrap().open -= 1;
        output.news.notify_all();
    });
}

/// Runs a command to its end.
pub(crate) fn run(name: &str, command: Command) -> Ended {
    Program::start(name, command).ended()
}
