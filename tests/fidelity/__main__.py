"""Runs the matrix: `python3 tests/fidelity [--only GROUP,…] [--quick] [--write docs/fidelity.md] PROGRAM`."""

import argparse
import importlib
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import matrix
import stack as stacks
from wire import Recorder

# Each is a file in `rows`. The quick ones need nothing but Python.
GROUPS = ["http1", "edges", "nginx", "asgi", "http2", "https", "grpc", "tcp", "tls", "local", "proxied", "git", "travel", "browser", "restarts"]
QUICK = ["http1", "edges"]


class Way:
    """One of the two ways to an application."""

    def __init__(self, stack):
        self.stack, self.recorder = stack, stack.recorder

    def host(self, name):
        return self.stack.host(name)

    def connect(self, name):
        """A fresh connection."""
        sock = socket.create_connection(("127.0.0.1", self.port(name)), timeout=stacks.PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def curl(self, name, path, *options, tls=False):
        """What curl prints, when it opens the same URL this way or that."""
        scheme, port = ("https", self.tls_port(name)) if tls else ("http", self.port(name))
        url = f"{scheme}://{self.host(name)}{path}"
        common = ["curl", "--silent", "--show-error", "--max-time", "60", "--connect-to", f"::127.0.0.1:{port}"]
        return stacks.run([*common, *options, url])


class Direct(Way):
    """Straight to the application."""

    title = "direct"

    def port(self, name):
        local = self.stack.services[name]["local"]
        return int(local.rsplit(":", 1)[1])

    tls_port = port


class Tunnelled(Way):
    """Through the server and the agent."""

    title = "tunnelled"

    def port(self, name):
        return self.stack.ports.get(name, self.stack.http)

    def tls_port(self, _):
        return self.stack.https


def main():
    parser = argparse.ArgumentParser(prog="fidelity", description=__doc__)
    parser.add_argument("program", type=Path, help="the adit program to run")
    parser.add_argument("--only", help=f"groups, separated by commas: {', '.join(GROUPS)}")
    parser.add_argument("--quick", action="store_true", help="the groups that need nothing but Python")
    parser.add_argument("--write", type=Path, help="write the page of all outcomes to this file")
    options = parser.parse_args()
    groups = options.only.split(",") if options.only else QUICK if options.quick else GROUPS
    if unknown := [group for group in groups if group not in GROUPS]:
        parser.error(f"there is no group {', '.join(unknown)}")

    stack = stacks.Stack(options.program.resolve())
    stack.recorder = Recorder()
    measured = []
    try:
        modules = [importlib.import_module(f"rows.{group}") for group in groups]
        for module in modules:
            module.start(stack)
        # Groups with a server and an agent of their own offer nothing here.
        if stack.services:
            stack.open_tunnel()
        direct, tunnelled = Direct(stack), Tunnelled(stack)
        own = {module.__name__ for module in modules}
        outcomes = matrix.run_all([row for row in matrix.ROWS if row.run.__module__ in own], direct, tunnelled)
        for module in modules:
            if hasattr(module, "measure"):
                measured += module.measure(direct, tunnelled)
    finally:
        stack.close()

    for what, one, other in measured:
        print(f"  measured: {what}: {one:.2f} ms direct, {other:.2f} ms tunnelled")
    bad = [outcome for outcome in outcomes if outcome.verdict not in ("equal", "stated")]
    stated = sum(outcome.verdict == "stated" for outcome in outcomes)
    print(f"\n{len(outcomes)} exchanges: {len(outcomes) - len(bad) - stated} equal, {stated} with a stated difference, {len(bad)} otherwise")
    if options.write and not bad:
        options.write.write_text(matrix.as_markdown(outcomes, measured))
        print(f"written to {options.write}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
