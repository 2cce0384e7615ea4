"""Processes of a run: free ports, network namespaces, what they cost, and their ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
# Everything that a run makes.
WORK = ROOT / "target/bench"
PATIENCE = 20.0
TICKS = os.sysconf("SC_CLK_TCK")

# Debian keeps servers out of the search path of ordinary users.
os.environ["PATH"] = f"{WORK}/peers/bin:{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin"


class Failed(Exception):
    """Something did not do what it should, and what it said."""


def free_port():
    """A port that was free a moment ago, on every address."""
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        return probe.getsockname()[1]


def in_namespace(namespace, command):
    """The command as it is run in a network namespace; as it is without one."""
    prefix = ["ip", "netns", "exec", namespace] if namespace else []
    return prefix + [str(part) for part in command]


class Program:
    """A process, its children, and its output, which is kept for the case that it does not do what it should."""

    def __init__(self, name, command, namespace=None, stdin=subprocess.DEVNULL, env=None):
        self.name, self.namespace = name, namespace
        WORK.joinpath("logs").mkdir(parents=True, exist_ok=True)
        self.log = open(WORK / "logs" / f"{name.replace(' ', '-')}.log", "w+b")
        self.process = subprocess.Popen(
            in_namespace(namespace, command), stdin=stdin, stdout=self.log, stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})}, start_new_session=True,
        )

    def said(self):
        """Everything it has written so far."""
        return Path(self.log.name).read_text(errors="replace")

    def wait(self, what, condition, seconds=PATIENCE):
        """Looks until `condition` holds; an end of the process, or of patience, is a failure."""
        end = time.monotonic() + seconds
        while True:
            if self.process.poll() is not None:
                raise Failed(f"{self.name} has ended with {self.process.returncode}:\n{self.said()}")
            try:
                if condition():
                    return self
            except OSError:
                pass
            if time.monotonic() > end:
                raise Failed(f"waited in vain for {what} of {self.name}:\n{self.said()}")
            time.sleep(0.02)

    def wait_for_port(self, port, address="127.0.0.1"):
        """Waits until the program itself listens there. Somebody else's listener is the bind error that it is."""
        return self.wait(f"port {port}", lambda: port in listening(self.family()))

    def wait_for_words(self, words):
        """Waits until it has said something."""
        return self.wait(repr(words), lambda: words in self.said())

    def family(self):
        """The process ids of it and its children."""
        session = self.process.pid
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    if os.getsid(int(entry)) == session:
                        found.append(int(entry))
                except ProcessLookupError:
                    pass
        return found

    def end(self):
        """Ends the whole family: some servers are more than one process."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def listening(pids):
    """The TCP ports on which one of these processes listens."""
    inodes = set()
    ports = set()
    for pid in pids:
        try:
            for handle in os.scandir(f"/proc/{pid}/fd"):
                target = os.readlink(handle.path)
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
            tables = [Path(f"/proc/{pid}/net/{table}").read_text() for table in ("tcp", "tcp6")]
        except OSError:
            continue
        for line in "\n".join(tables).splitlines():
            words = line.split()
            if len(words) > 9 and words[3] == "0A" and words[9] in inodes:
                ports.add(int(words[1].rsplit(":", 1)[1], 16))
    return ports


def cpu_seconds(programs):
    """User and system time of these programs and their children so far."""
    total = 0
    for pid in (pid for program in programs for pid in program.family()):
        try:
            # The name in parentheses may hold anything; the numbers follow it.
            words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += sum(int(words[place]) for place in (11, 12, 13, 14))
    return total / TICKS


def memory(programs):
    """Resident, proportional and peak resident memory of these programs and their children, in KiB."""
    found = {"rss": 0, "pss": 0, "peak": 0}
    for pid in (pid for program in programs for pid in program.family()):
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        for key, text, word in (("rss", rollup, "Rss:"), ("pss", rollup, "Pss:"), ("peak", status, "VmHWM:")):
            found[key] += next(int(line.split()[1]) for line in text.splitlines() if line.startswith(word))
    return found


def forget_peak(programs):
    """From now on `memory` tells the peak since now (proc(5), clear_refs)."""
    for pid in (pid for program in programs for pid in program.family()):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


class Load:
    """A run of `load.py` that says when it is ready, goes on until it is told, and then says what it saw."""

    def __init__(self, place, *words):
        self.command = in_namespace(place.visitors, [sys.executable, HERE / "load.py", *words])
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        line = self.process.stdout.readline()
        if line.strip() != b"ready":
            self.process.kill()
            raise Failed(f"{' '.join(self.command)}:\n{self.process.communicate()[1].decode(errors='replace')}")

    def end(self):
        try:
            out, errors = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Failed(f"{' '.join(self.command)} did not end") from None
        return told(self.command, self.process.returncode, out, errors)


def load(place, *words, seconds=120):
    """Runs `load.py` to its end; what it saw."""
    command = in_namespace(place.visitors, [sys.executable, HERE / "load.py", *words])
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command)} took longer than {seconds} s") from None
    return told(command, ended.returncode, ended.stdout, ended.stderr)


def told(command, code, out, errors):
    """The last line as JSON."""
    if code != 0:
        raise Failed(f"{' '.join(command)} ended with {code}:\n{errors.decode(errors='replace')}")
    return json.loads(out.splitlines()[-1])


def run(command, seconds=300, namespace=None, **options):
    """Runs a program to its end; its output."""
    command = in_namespace(namespace, command)
    try:
        ended = subprocess.run(command, capture_output=True, timeout=seconds, **options)
    except FileNotFoundError as error:
        raise Failed(f"{command[0]} is not installed: {error}") from error
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command)} took longer than {seconds} s") from None
    if ended.returncode != 0:
        said = (ended.stdout + ended.stderr).decode(errors="replace")
        raise Failed(f"{' '.join(command)} ended with {ended.returncode}:\n{said}")
    return ended.stdout.decode(errors="replace")
