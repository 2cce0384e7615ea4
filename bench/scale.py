"""Many agents on one server: `python3 bench/scale.py [--agents 10000]`. Needs root, for a network namespace.

All of it runs in a namespace of its own, in which a whole network is local: an agent that dials 10.78.1.2 comes from
10.78.1.2. So the server sees an address for every 50 agents, and its limits for each address do not decide.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import contenders
import terminal
from contenders import DOMAIN, Adit, Way
from local import Local, Place
from programs import HERE, WORK, Failed, Load, Program, cpu_seconds, free_port, load, memory, run

AGENTS, VISITORS = (WORK / "build/release" / name for name in ("bench-agents", "bench-visitors"))
OF_A_PROCESS, OF_A_CLIENT, OF_A_NETWORK = 2500, 50, 250
# So many tunnels are asked once a second; so many WebSockets are open on each agent, but no more than that in all. Each takes
# a file in its agents' process and one in that of its application, of which the system allows 20,000 to a process.
ASKED, WEBSOCKETS, MOST_WEBSOCKETS = 5000, 8, 20_000
# From half of them on one address gets a small part of what is left, and here all visitors have one.
STREAMS = 3 * MOST_WEBSOCKETS
# More than the slowest machine needs for a login, for each agent.
PATIENCE = 0.25


class Scale:
    """A server, one agent with an application behind it, and many that are idle."""

    def __init__(self, count):
        self.count, self.namespace = count, f"bench-s-{os.getpid()}"
        self.opened = []
        self.folder = WORK / "run/scale"
        self.folder.mkdir(parents=True, exist_ok=True)

    def prepare(self):
        """The namespace, and a clients file in which all have the same token: only one has to be hashed for it."""
        run(["ip", "netns", "add", self.namespace])
        run(["ip", "-n", self.namespace, "link", "set", "lo", "up"])
        run(["ip", "-n", self.namespace, "route", "add", "local", "10.78.0.0/16", "dev", "lo"])
        self.place = Place("scale", self.namespace, self.namespace)
        self.local = Local(self.place, 1 << 20)
        self.opened.append(self.local)
        clients, addresses = self.folder / "clients.toml", []
        clients.unlink(missing_ok=True)
        self.token = run([Adit.program, "token", "new", "live", "--clients", clients]).strip()
        token_hash = re.search(r'token_hash = "[^"]+"', clients.read_text()).group(0)
        with open(clients, "a") as file:
            for number in range((self.count + OF_A_CLIENT - 1) // OF_A_CLIENT):
                names = ", ".join(f'"c{number}-{place}"' for place in range(OF_A_CLIENT))
                file.write(f"\n[clients.c{number}]\nnames = [{names}]\n{token_hash}\n")
                addresses.append(f'"10.78.{number // OF_A_NETWORK}.{number % OF_A_NETWORK + 1}"')
        self.tunnel, self.http = free_port(), free_port()
        (self.folder / "server.toml").write_text(f"""
            clients = "clients.toml"
            [tunnel]
            listen = "0.0.0.0:{self.tunnel}"
            max_tunnels = {self.count + 100}
            [tunnel.tls]
            dir = "certs"
            names = [{", ".join(addresses)}]
            [public]
            domain = "{DOMAIN}"
            http = "127.0.0.1:{self.http}"
            [limits]
            streams = {STREAMS}
            {contenders.LIMITS.replace("streams = 16384", f"streams = {STREAMS}")}
            """)
        self.way = Way("127.0.0.1", self.http, f"live.{DOMAIN}")

    def start_server(self):
        command = [Adit.program, "server", "--config", self.folder / "server.toml"]
        self.server = Program("scale server", command, self.namespace)
        self.opened.append(self.server)
        self.server.wait_for_port(self.http).wait_for_words("fingerprint")
        self.fingerprint = re.search(r"sha256:[0-9a-f]{64}", self.server.said()).group(0)

    def start_live(self):
        command = [Adit.program, "http", self.local.files, "--server", f"127.0.0.1:{self.tunnel}", "--id", "live",
                   "--fingerprint", self.fingerprint]
        live = Program("scale live agent", command, self.namespace, env={"ADIT_TOKEN": self.token})
        self.opened.append(live)
        live.wait_for_words("connected")

    def start_agents(self):
        self.agents = []
        for first in range(0, self.count, OF_A_PROCESS):
            port = free_port()
            app = Program(f"scale app {first}", [sys.executable, HERE / "app.py", "127.0.0.1", port], self.namespace)
            self.opened.append(app.wait_for_port(port))
            command = [AGENTS, self.fingerprint, self.tunnel, first, min(OF_A_PROCESS, self.count - first), self.local.files, port]
            self.agents.append(Program(f"scale agents {first}", command, self.namespace, env={"ADIT_TOKEN": self.token}))
            self.opened.append(self.agents[-1])

    def wait(self, what, word):
        """Waits until all of them are up, or up again; the seconds that it took."""
        begin = time.monotonic()
        while True:
            there = sum(int((re.findall(rf"{word} (\d+)", agents.said()) or [0])[-1]) for agents in self.agents)
            since = time.monotonic() - begin
            terminal.progress(f"{since:4.0f} s  {what}: {there:,} of {self.count:,}")
            if there == self.count:
                return since
            if since > 60 + self.count * PATIENCE:
                raise Failed(f"{there} of {self.count} agents {what}:\n{self.agents[0].said()[-500:]}")
            time.sleep(0.05)

    def close(self):
        for thing in reversed(self.opened):
            thing.close() if hasattr(thing, "close") else thing.end()
        subprocess.run(["ip", "netns", "del", self.namespace], capture_output=True)


def measure(scale):
    """All of it; a list of what and figure."""
    scale.prepare()
    scale.start_server()
    scale.start_live()
    load(scale.place, "pings", *scale.way.words(), "--seconds", 1)
    before = memory([scale.server])["pss"]
    yield "server with one agent, PSS", f"{before / 1024:.1f} MiB"
    yield "small requests to it, p50 / p99", shown(load(scale.place, "pings", *scale.way.words(), "--seconds", 3))
    scale.start_agents()
    seconds, cpu = scale.wait("logged in", "up"), cpu_seconds([scale.server])
    yield f"{scale.count:,} agents logged in with their tokens after", f"{seconds:.1f} s (server: {cpu:.1f} CPU s)"
    time.sleep(3)
    with_all = memory([scale.server])
    most = f"at most {with_all['peak'] / 1024:.1f} MiB resident"
    yield "server with all of them, PSS", f"{with_all['pss'] / 1024:.1f} MiB ({most})"
    yield "of that for each idle agent", f"{(with_all['pss'] - before) / scale.count:.1f} KiB"
    cpu = cpu_seconds([scale.server])
    seen = load(scale.place, "pings", *scale.way.words(), "--seconds", 10)
    yield "small requests to the one meanwhile, p50 / p99", shown(seen)
    time.sleep(10)
    cpu, since = cpu_seconds([scale.server]), time.monotonic()
    time.sleep(10)
    idle = (cpu_seconds([scale.server]) - cpu) / (time.monotonic() - since)
    yield "server's processor time while all are idle", f"{idle * 100:.1f} % of a core"
    yield from asked(scale)
    yield from websockets(scale)
    yield from restart(scale)


def asked(scale):
    """Many tunnels with a little to do each."""
    tunnels, seconds = min(ASKED, scale.count), 20
    cpu = cpu_seconds([scale.server])
    seen = json.loads(run([VISITORS, "ask", scale.http, DOMAIN, tunnels, seconds], namespace=scale.namespace))
    cpu = (cpu_seconds([scale.server]) - cpu) / seconds
    if seen["failures"] or seen["asked"] != tunnels * seconds:
        raise Failed(f"not every tunnel has answered every second: {seen}")
    yield f"{tunnels:,} tunnels, each asked once a second, p50 / p99", f"{shown(seen)}, at most {seen['most']:.1f} ms"
    yield "server's processor time for that", f"{cpu * 100:.0f} % of a core"


def websockets(scale):
    """Idle WebSockets through every tunnel; each of them still carries a message at the end."""
    count = min(MOST_WEBSOCKETS, WEBSOCKETS * scale.count)
    before = memory([scale.server])["pss"]
    command = [VISITORS, "hold", scale.http, DOMAIN, scale.count, count]
    visitors = Program("scale visitors", command, scale.namespace, stdin=subprocess.PIPE)
    scale.opened.append(visitors)
    begin = time.monotonic()
    visitors.wait("WebSockets", lambda: f"held {count}" in visitors.said(), seconds=300)
    opened = time.monotonic() - begin
    time.sleep(5)
    each = (memory([scale.server])["pss"] - before) / count
    yield f"{count:,} idle WebSockets over HTTP/2, opened in", f"{opened:.0f} s"
    yield "of the server's memory for each of them", f"{each:.1f} KiB"
    yield "small requests to the one meanwhile, p50 / p99", shown(load(scale.place, "pings", *scale.way.words(), "--seconds", 5))
    visitors.process.stdin.write(b"and now?\n")
    visitors.process.stdin.flush()
    visitors.wait("every WebSocket", lambda: f"came back {count}" in visitors.said(), seconds=120)
    yield "of these, alive at the end", f"{count:,}"
    visitors.end()


def restart(scale):
    """The server ends, as an operator would end it, and starts again at once."""
    begin = time.monotonic()
    scale.server.end()
    ended = time.monotonic()
    scale.start_server()
    up = time.monotonic()
    yield "restart: the server stops in; listens again after", f"{ended - begin:.2f} s; {up - ended:.2f} s"
    pings = Load(scale.place, "patient_pings", *scale.way.words())
    scale.wait("back", "again")
    seconds = time.monotonic() - up
    seen = pings.end()
    yield "restart: the last agent is back after", f"{seconds:.1f} s (server: {cpu_seconds([scale.server]):.1f} CPU s)"
    yield "restart: the one with visitors is back after", f"{seen['first']:.2f} s ({seen['failures']} requests were in vain)"
    yield "restart: small requests to it meanwhile, p50 / p99", shown(seen)
    yield "restart: server, PSS", f"{memory([scale.server])['pss'] / 1024:.1f} MiB"


def shown(seen):
    return f"{seen['p50']:.2f} / {seen['p99']:.2f} ms"


def main():
    parser = argparse.ArgumentParser(prog="bench/scale.py", description=__doc__)
    parser.add_argument("--agents", type=int, default=10_000)
    given = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("a network namespace needs root")
    if not 0 < given.agents <= 50_000:
        parser.error("1 to 50,000 agents")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scale = Scale(given.agents)
    try:
        for what, figure in measure(scale):
            terminal.say(f"  {what:56} {figure}")
    except Failed as error:
        terminal.say(f"error: {error}")
        return 1
    finally:
        scale.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
