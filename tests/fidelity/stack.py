"""What the exchanges run on: processes with free ports, a server and an agent of the built program, and their ends."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
DOMAIN = "tunnel.test"
PATIENCE = 30.0

# Debian keeps servers out of the search path of ordinary users.
os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"


class Missing(Exception):
    """Something that the rows need is not installed."""


def free_port():
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, condition, seconds=PATIENCE):
    """Looks until `condition` holds; whatever it raises in the meantime is not yet an answer."""
    end = time.monotonic() + seconds
    while True:
        try:
            found = condition()
            if found:
                return found
        except OSError:
            pass
        if time.monotonic() > end:
            raise TimeoutError(f"waited in vain for {what}")
        time.sleep(0.02)


def listens(port):
    """Whether somebody takes connections there."""
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


class Program:
    """A process that ends with the run, and whose output is kept for the case that it does not do what it should."""

    def __init__(self, name, command, port=None, env=None, user=None, cwd=None, patience=PATIENCE):
        self.name = name
        self.log = tempfile.TemporaryFile()
        environment = {**os.environ, **(env or {})}
        try:
            self.process = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
                env=environment, user=user, cwd=cwd, start_new_session=True,
            )
        except FileNotFoundError as error:
            raise Missing(f"{name} cannot be started: {error}") from error
        if port:
            self.wait(f"{name} on port {port}", lambda: listens(port), patience)

    def said(self):
        # Not by `seek`: the process writes where this file descriptor stands.
        log = self.log.fileno()
        return os.pread(log, os.fstat(log).st_size, 0).decode(errors="replace")

    def wait(self, what, condition, seconds=PATIENCE):
        def alive():
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} has ended with {self.process.returncode}:\n{self.said()}")
            return condition()

        try:
            return wait_for(what, alive, seconds)
        except TimeoutError as error:
            raise RuntimeError(f"{error}:\n{self.said()}") from error

    def end(self):
        if self.process.poll() is None:
            # The whole family: some servers are more than one process.
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def ports_of(server):
    """The ports of `adit server`, as it prints them: tunnel, HTTP, and HTTPS and admin if it has them."""
    server.wait("the server's addresses", lambda: "  fingerprint  " in server.said())
    lines = (r"agents dial +\S+:(\d+)", r"visitors +http://\S+?:(\d+)/", r"\n +https://\S+?:(\d+)/", r"admin +http://\S+?:(\d+)/")
    found = (re.search(line, server.said()) for line in lines)
    return [int(port.group(1)) if port else None for port in found]


def run(command, **options):
    """Runs a program to its end; its output, or what it said when it failed."""
    try:
        ended = subprocess.run([str(part) for part in command], capture_output=True, timeout=120, **options)
    except FileNotFoundError as error:
        raise Missing(str(error)) from error
    if ended.returncode != 0:
        words = " ".join(str(part) for part in command)
        raise RuntimeError(f"{words} ended with {ended.returncode}:\n{(ended.stdout + ended.stderr).decode(errors='replace')}")
    return ended.stdout


class Stack:
    """A server and an agent as an operator and a self-hoster would have them, and the applications behind them.

    `settings` are further settings of the server, each as `key.path=value`.
    """

    def __init__(self, program, *settings, domain=DOMAIN):
        self.program, self.settings, self.domain = program, settings, domain
        self.folder = Path(tempfile.mkdtemp(prefix="adit-fidelity-"))
        # Unprivileged servers read what lies in it.
        self.folder.chmod(0o755)
        self.programs, self.also_close = [], []
        self.services = {}
        self.server = self.agent = None

    def start(self, name, command, port=None, **options):
        """Starts a program that ends with the run."""
        program = Program(name, command, port, **options)
        self.programs.append(program)
        return program

    def offer(self, name, local, kind="http", **keys):
        """Adds a service; all of them are offered when the tunnel starts."""
        keys = {"kind": kind, "local": local, **keys}
        self.services[name] = keys

    def open_tunnel(self):
        """Starts server and agent with what was offered."""
        self.open_server(self.services)
        text = []
        for name, keys in self.services.items():
            text.append(f'[[services]]\nname = "{name}"')
            text += [f"{key} = {toml(value)}" for key, value in keys.items()]
        self.configure_agent("\n".join(text) + "\n")
        self.connect()

    def open_server(self, names):
        """Starts a server with one client, which may have these names."""
        folder = self.folder
        token = run([self.program, "token", "new", "alice", "--clients", folder / "clients.toml"]).decode().strip()
        (folder / "token").write_text(token)
        (folder / "token").chmod(0o600)
        clients = (folder / "clients.toml").read_text()
        names = ", ".join(f'"{name}"' for name in names)
        section = f'[clients.alice]\nnames = [{names}]\ntcp_ports = ["22000-22999"]\n'
        (folder / "clients.toml").write_text(clients.replace("[clients.alice]\n", section))
        (folder / "server.toml").write_text(
            f"""
            clients = "clients.toml"
            [tunnel]
            listen = "127.0.0.1:0"
            [tunnel.tls]
            dir = "certs"
            [public]
            domain = "{self.domain}"
            http = "127.0.0.1:0"
            https = "127.0.0.1:0"
            proxy_protocol_from = ["127.0.0.9"]
            [admin]
            listen = "off"
            [limits.per_ip]
            requests_per_second = 100000
            burst = 100000
            connections = 10000
            """
        )
        self.start_server()
        self.ca = folder / "certs/ca.pem"

    def configure_agent(self, services):
        """Writes the agent's configuration: its login, and these services. A running agent reloads it."""
        login = f'servers = ["127.0.0.1:{self.tunnel}"]\nclient_id = "alice"\ntoken_file = "token"\nca = "certs/ca.pem"\n'
        (self.folder / "agent.toml").write_text(login + services)
        run([self.program, "check", self.folder / "agent.toml"])

    def start_server(self):
        """Starts the server: on free ports the first time, and then on those that it had."""
        settings = list(self.settings)
        if self.server is not None:
            ports = [("tunnel.listen", self.tunnel), ("public.http", self.http), ("public.https", self.https)]
            settings += [f"{key}=127.0.0.1:{port}" for key, port in ports]
        command = [self.program, "server", "--config", self.folder / "server.toml"]
        self.server = self.start("adit server", command + [f"--set={setting}" for setting in settings])
        self.tunnel, self.http, self.https, _ = ports_of(self.server)

    def connect(self):
        """Starts the agent, and learns the public ports of its services."""
        self.agent = self.start("adit agent", [self.program, "agent", "--config", self.folder / "agent.toml"])
        locals_of_tcp = {
            name: keys["local"].removeprefix("tcp://") for name, keys in self.services.items() if keys["kind"] == "tcp"
        }

        def shown():
            # What it prints may come in pieces, and a failed attempt says "not connected".
            said = self.agent.said()
            found = {
                name: re.search(rf":(\d+)\S*\s+->\s+(?:tcp://)?{re.escape(local)}\s", said)
                for name, local in locals_of_tcp.items()
            }
            return (found,) if "  ->  " in said and all(found.values()) else None

        (found,) = self.agent.wait("a connected agent", shown)
        self.ports = {name: int(port.group(1)) for name, port in found.items()}

    def host(self, name):
        return f"{name}.{self.domain}"

    def close(self):
        """Ends all programs, and removes the folder."""
        for stack in self.also_close:
            stack.close()
        for program in reversed(self.programs):
            program.end()
        shutil.rmtree(self.folder, ignore_errors=True)


def toml(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else f'"{value}"'
