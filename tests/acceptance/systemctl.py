#!/usr/bin/env python3
"""A stand-in for systemctl where systemd does not run: in a chroot.

It reads the units that are installed, drop-ins included, and keeps to what concerns how a program is started, told and
stopped: ExecStart, ExecReload, Type, User, Group, Environment, EnvironmentFile, StateDirectory, LogsDirectory,
WorkingDirectory, UMask, LimitNOFILE, AmbientCapabilities, CapabilityBoundingSet, NoNewPrivileges, WatchdogSec, TimeoutStopSec. Of a
socket unit: ListenStream with ports, and Backlog; a process of its own holds the sockets, and hands them to the service whenever
that starts. What hides the system from the program (Protect…, Private…, SystemCallFilter) is not done here, and nothing is
restarted or started by itself.
"""

import grp
import json
import os
import pathlib
import pwd
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time

STATE = pathlib.Path("/run/units")
PATIENCE = 30
# Runs a command with the descriptors before `--` in the places where sd_listen_fds(3) looks for them.
HAND_OVER = """
import os, sys
split = sys.argv.index("--")
# First out of the way.
moved = [os.dup2(int(fd), 100 + at) for at, fd in enumerate(sys.argv[1:split])]
for at, fd in enumerate(moved):
    os.dup2(fd, 3 + at)
os.closerange(3 + len(moved), 100 + len(moved))
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(moved))}
os.execvp(sys.argv[split + 1], sys.argv[split + 1:])
"""


class Unit:
    def __init__(self, name, missing_ok=False):
        self.name = name.removesuffix(".service")
        self.is_socket = name.endswith(".socket")
        file = self.name if self.is_socket else f"{self.name}.service"
        places = [pathlib.Path(place) / "systemd/system" for place in ("/etc", "/usr/lib", "/lib")]
        found = next((place / file for place in places if (place / file).exists()), None)
        self.values = {}
        if found is None and missing_ok:
            return
        if found is None:
            sys.exit(f"Unit {file} not found.")
        drop_ins = [path for place in places for path in sorted((place / f"{file}.d").glob("*.conf"))]
        for path in [found, *dict.fromkeys(path.resolve() for path in drop_ins)]:
            self.read(path.read_text())

    def read(self, text):
        section = ""
        for line in re.sub(r"\\\n", " ", text).splitlines():
            line = line.strip()
            if line.startswith("["):
                section = line
            elif section == ("[Socket]" if self.is_socket else "[Service]") and "=" in line and line[0] not in "#;":
                key, value = (part.strip() for part in line.split("=", 1))
                # An empty value takes back what was said before.
                self.values[key] = [*self.values.get(key, []), value] if value else []

    def last(self, key, default=""):
        return (self.values.get(key) or [default])[-1]

    def environment(self):
        pairs = [pair for line in self.values.get("Environment", []) for pair in shlex.split(line)]
        for file in self.values.get("EnvironmentFile", []):
            pairs += [pair for line in pathlib.Path(file.lstrip("-")).read_text().splitlines()
                      if line.strip() and not line.startswith("#") for pair in ["".join(shlex.split(line))]]
        return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "NO_COLOR": "1",
                **dict(pair.split("=", 1) for pair in pairs)}

    def words(self, key, **variables):
        return self.split(self.last(key), **variables)

    def split(self, line, **variables):
        return [word for part in shlex.split(line)
                for word in (variables.get(part[1:], "").split() if re.fullmatch(r"\$\w+", part) else [part])]

    def seconds(self, key, default):
        return float(self.last(key, default).removesuffix("s"))

    def whose(self):
        user = pwd.getpwnam(self.last("User", "root"))
        return user, grp.getgrnam(self.last("Group") or grp.getgrgid(user.pw_gid).gr_name)

    @property
    def state(self):
        return STATE / self.name

    def note(self, what, text):
        """Writes it whole or not at all: others read it at any time."""
        new = self.state / f".{what}.{os.getpid()}"
        new.write_text(text)
        new.rename(self.state / what)

    def pid(self):
        try:
            return json.loads((self.state / "main").read_text())["pid"]
        except FileNotFoundError:
            return None

    def code(self):
        try:
            return int((self.state / "code").read_text())
        except FileNotFoundError:
            return None

    def told(self):
        try:
            return (self.state / "told").read_text()
        except FileNotFoundError:
            return ""


def until(what, done, patience=PATIENCE):
    end = time.monotonic() + patience
    while not done():
        if time.monotonic() > end:
            sys.exit(f"waited in vain for: {what}")
        time.sleep(0.02)


def hold(unit):
    """Opens the sockets of a socket unit, and hands them to whoever asks, until this is killed."""
    if unit.pid() and unit.code() is None:
        return
    unit.state.mkdir(parents=True, exist_ok=True)
    (unit.state / "code").unlink(missing_ok=True)
    sockets = []
    for port in unit.values["ListenStream"]:
        try:
            sockets.append(socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True,
                                                backlog=int(unit.last("Backlog", "4096"))))
        except OSError as error:
            sys.exit(f"{unit.name}: {port}: {error}")
    (unit.state / "door").unlink(missing_ok=True)
    door = socket.socket(socket.AF_UNIX)
    door.bind(str(unit.state / "door"))
    door.listen()
    if pid := os.fork():
        unit.note("main", json.dumps({"pid": pid}))
        return
    os.setsid()
    for stream in (0, 1, 2):
        os.dup2(os.open("/dev/null", os.O_RDWR), stream)
    while True:
        asks, _ = door.accept()
        socket.send_fds(asks, [b"-"], [held.fileno() for held in sockets])
        asks.close()


def handed_to(unit):
    """The descriptors that the socket unit of this service holds."""
    held_by = Unit(f"{unit.name}.socket", missing_ok=True)
    if held_by.pid() is None or held_by.code() is not None:
        return []
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(str(held_by.state / "door"))
        return socket.recv_fds(door, 1, 16)[1]


def start(unit):
    if unit.is_socket:
        return hold(unit)
    if unit.pid() and unit.code() is None:
        return
    unit.state.mkdir(parents=True, exist_ok=True)
    for name in ("main", "code", "told"):
        (unit.state / name).unlink(missing_ok=True)
    if os.fork() == 0:
        os.setsid()
        supervise(unit)
        os._exit(0)
    until(f"a process of {unit.name}", unit.pid)
    if unit.last("Type", "simple") == "notify":
        until(f"READY=1 of {unit.name}", lambda: "READY=1" in unit.told() or unit.code() is not None)
    if unit.code() is not None:
        sys.exit(f"{unit.name} has ended with {unit.code()}; see /run/units/{unit.name}/log")


def supervise(unit):
    """Runs the program and waits for its end: systemd's part."""
    user, group = unit.whose()
    for key, base in (("StateDirectory", "/var/lib"), ("LogsDirectory", "/var/log")):
        for name in unit.last(key).split():
            path = pathlib.Path(base, name)
            path.mkdir(parents=True, exist_ok=True)
            os.chown(path, user.pw_uid, group.gr_gid)
            path.chmod(int(unit.last(f"{key}Mode", "0755"), 8))
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    address = str(unit.state / "notify")
    pathlib.Path(address).unlink(missing_ok=True)
    notify.bind(address)
    os.chmod(address, 0o777)
    environment = unit.environment()
    if unit.last("Type") == "notify":
        environment["NOTIFY_SOCKET"] = address
        if unit.last("WatchdogSec"):
            environment["WATCHDOG_USEC"] = str(int(unit.seconds("WatchdogSec", "0") * 1e6))
    with open(unit.state / "log", "ab") as log, open("/dev/null", "rb") as nothing:
        handed = handed_to(unit)
        hand_over = [sys.executable, "-c", HAND_OVER, *map(str, handed), "--"] if handed else []
        process = subprocess.Popen(
            hand_over + as_user(unit, user, group) + unit.words("ExecStart", **environment), env=environment, stdin=nothing,
            stdout=log, stderr=log, cwd=unit.last("WorkingDirectory", "/"), umask=int(unit.last("UMask", "0022"), 8),
            pass_fds=handed)
    for descriptor in handed:
        os.close(descriptor)
    for stream in (0, 1, 2):
        os.dup2(os.open("/dev/null", os.O_RDWR), stream)
    unit.note("new", json.dumps({"pid": process.pid}))
    (unit.state / "new").rename(unit.state / "main")
    notify.settimeout(0.1)
    with open(unit.state / "told", "a") as told:
        while process.poll() is None:
            try:
                print(notify.recv(4096).decode().strip(), file=told, flush=True)
            except TimeoutError:
                pass
    unit.note("code", str(process.returncode))


def as_user(unit, user, group):
    """setpriv gives up what the unit does not name. It is not root any more when the program begins."""
    names = lambda key: [name.lower().removeprefix("cap_") for line in unit.values.get(key, []) for name in line.split()]
    plus = lambda names: ",".join(["-all", *(f"+{name}" for name in names)])
    ambient = names("AmbientCapabilities")
    # No more than this machine allows.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = int(unit.last("LimitNOFILE", "1024"))
    files = files if hard == resource.RLIM_INFINITY else min(files, hard)
    command = ["prlimit", f"--nofile={files}", "setpriv", f"--reuid={user.pw_uid}",
               f"--regid={group.gr_gid}", "--init-groups", f"--inh-caps={plus(ambient)}", f"--ambient-caps={plus(ambient)}"]
    if "CapabilityBoundingSet" in unit.values:
        # Dropped first, so what changes the user must still be there: setpriv does it in the right order.
        command.append(f"--bounding-set={plus(names('CapabilityBoundingSet'))}")
    if unit.last("NoNewPrivileges") in ("yes", "true"):
        command.append("--no-new-privs")
    return command


def reload(unit):
    before = unit.told().count("READY=1")
    environment = {**unit.environment(), "MAINPID": str(unit.pid())}
    with open(unit.state / "log", "ab") as log:
        for line in unit.values.get("ExecReload", []):
            # One that fails is the end of it.
            command = as_user(unit, *unit.whose()) + unit.split(line, **environment)
            code = subprocess.run(command, env=environment, stdout=log, stderr=log, cwd=unit.last("WorkingDirectory", "/")).returncode
            if code:
                sys.exit(f"Job for {unit.name}.service failed: {line} has ended with {code}")
    if unit.last("Type", "simple") == "notify":
        until(f"{unit.name} to be ready again", lambda: unit.told().count("READY=1") > before)


def stop(unit):
    if unit.pid() is None or unit.code() is not None:
        return
    os.kill(unit.pid(), signal.SIGTERM)
    if unit.is_socket:
        unit.note("code", "0")
        return
    until(f"the end of {unit.name}", lambda: unit.code() is not None, unit.seconds("TimeoutStopSec", "90"))
    if unit.code() not in (0, -signal.SIGTERM):
        sys.exit(f"{unit.name} has ended with {unit.code()}")


def main():
    verb, *names = [word for word in sys.argv[1:] if word not in ("--now", "--quiet", "--system", "--")]
    units = [Unit(name) for name in names]
    for unit in units:
        if verb == "enable" and "--now" in sys.argv or verb == "start":
            start(unit)
        elif verb == "restart" or verb == "try-restart" and unit.pid() and unit.code() is None:
            stop(unit)
            start(unit)
        elif verb == "reload":
            reload(unit)
        elif verb == "stop":
            stop(unit)
        elif verb == "is-active":
            sys.exit(0 if unit.pid() and unit.code() is None else 3)
        elif verb not in ("enable", "try-restart"):
            sys.exit(f"{verb}: this stand-in does not know it")


main()
