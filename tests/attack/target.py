"""What is attacked: a server, two tenants with an agent and an application each, and what their processes use."""

import os
import re
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "fidelity"))

from stack import Program, free_port, ports_of, run

HERE = Path(__file__).resolve().parent
DOMAIN = "attack.test"

# What each tenant claims beside its own name: services whose bodies must be signed with `SECRET`.
HOOKS = {"loud": [f"hook-{number}" for number in range(4)], "quiet": ["quiet-hook"]}
SECRET = b"It's a Secret to Everybody"

# Who asks in somebody else's name, as a proxy does; and from where agents are wanted in spite of the attack.
PROXY = "127.0.0.10"

# Deadlines are short, so that a row can see them pass. Limits are the defaults.
LOGIN_TIMEOUT, HEAD, KEEP_ALIVE, IDLE = 3, 3, 5, 5

SERVER = """
clients = "clients.toml"
[tunnel]
listen = "127.0.0.1:0"
login_timeout = "{LOGIN_TIMEOUT}s"
[tunnel.tls]
dir = "certs"
[public]
domain = "{DOMAIN}"
http = "127.0.0.1:0"
https = "127.0.0.1:0"
trusted_proxies = ["{PROXY}"]
[admin]
listen = "127.0.0.1:0"
[timeouts]
head = "{HEAD}s"
keep_alive = "{KEEP_ALIVE}s"
idle = "{IDLE}s"
"""


class Target:
    """The tenant `loud` is attacked, or attacks; the tenant `quiet` is its neighbour."""

    def __init__(self, program, settings=(), files=None):
        """`settings` are further `--set` of the server; `files` is how many descriptors it may have."""
        self.program, self.folder = program, Path(tempfile.mkdtemp(prefix="adit-attack-"))
        self.programs = []
        try:
            self.start(settings, files)
        except BaseException:
            self.close()
            raise

    def start(self, settings, files):
        folder, values = self.folder, {**vars(self), **globals()}
        (folder / "server.toml").write_text(SERVER.format_map(values))
        tokens = {}
        for client in ("loud", "quiet"):
            names = ",".join([client, *HOOKS[client]])
            made = run([self.program, "token", "new", client, "--names", names, "--clients", folder / "clients.toml"])
            tokens[client] = made.decode().strip()
        command = [self.program, "server", "--config", folder / "server.toml"]
        for setting in settings:
            command += ["--set", setting]
        if files:
            command = ["prlimit", f"--nofile={files}", *command]
        self.server = self.program_of("adit server", command)
        self.tunnel, self.http, self.https, self.admin = ports_of(self.server)
        self.agents = {client: self.tenant(client, token) for client, token in tokens.items()}

    def program_of(self, name, command, **options):
        program = Program(name, command, **options)
        self.programs.append(program)
        return program

    def tenant(self, client, token):
        """Starts a tenant's application and agent, which are on machines of their own as it were: those of `loud`
        make way for the others'."""
        nice = ["nice", "-n", "10"] if client == "loud" else []
        port = free_port()
        self.program_of(f"application of {client}", [*nice, sys.executable, HERE / "app.py", port], port=port)
        text = f'servers = ["127.0.0.1:{self.tunnel}"]\nclient_id = "{client}"\nca = "certs/ca.pem"\n'
        text += f'[[services]]\nname = "{client}"\nlocal = {port}\n'
        for name in HOOKS[client]:
            text += f'[[services]]\nname = "{name}"\nlocal = {port}\n'
            text += f'[services.access.webhook]\nscheme = "github"\nsecret = "{SECRET.decode()}"\nmax_body = "25MiB"\n'
        (self.folder / f"{client}.toml").write_text(text)
        command = [*nice, self.program, "agent", "--config", self.folder / f"{client}.toml"]
        agent = self.program_of(f"agent of {client}", command, env={"ADIT_TOKEN": token})
        agent.wait("a connected agent", lambda: "  ->  " in agent.said())
        return agent

    def close(self):
        for program in reversed(self.programs):
            program.end()

    def host(self, name):
        return f"{name}.{DOMAIN}"


class Gauge:
    """What a process uses. The kernel's own counts (proc(5))."""

    def __init__(self, program):
        self.folder = Path("/proc") / str(program.process.pid)

    def memory(self):
        """Resident megabytes now, and the most since the last `reset`."""
        text = (self.folder / "status").read_text()
        return tuple(int(re.search(rf"{key}:\s+(\d+)", text)[1]) / 1024 for key in ("VmRSS", "VmHWM"))

    def reset(self):
        (self.folder / "clear_refs").write_text("5")

    def files(self):
        return len(os.listdir(self.folder / "fd"))

    def seconds(self):
        """Processor time so far."""
        fields = (self.folder / "stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
