"""Holds the admin API of a running server against its own description, with schemathesis.

    python tests/admin BINARY [--seconds 60] [--seed N]

Everything happens in a folder that is removed afterwards: the server with its clients file, an agent, an application,
and a download that is open all the time. Fails on any finding.
"""

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent

SERVER = """\
clients = "clients.toml"
[tunnel]
listen = "127.0.0.1:0"
tls.dir = "state"
[public]
http = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[limits.per_ip]
logins_per_minute = 1000000
"""

# What schemathesis may take beyond its own budget before it is taken for stuck.
GRACE = 120


class Program:
    """A process whose lines are read as they come."""

    def __init__(self, command, **options):
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1, **options
        )

    def say(self, *patterns):
        """What the first group of each pattern is in the first line that has it, one after the other."""
        found = []
        for pattern in patterns:
            for line in self.process.stdout:
                if match := re.search(pattern, line):
                    found.append(match.group(1))
                    break
            else:
                sys.exit(f"{self.process.args[0]} ended before it said {pattern!r}")
        # Whatever it says later must not fill the pipe.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        return found

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def endless_application():
    """An application that begins an answer and never ends it; gives its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    kept = []

    def serve():
        while True:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nsome")
            kept.append(connection)

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


def visit(public):
    """Opens a download that stays open."""
    visitor = socket.create_connection(public)
    visitor.sendall(b"GET /some/path?secret=1 HTTP/1.1\r\nHost: resident.localhost\r\n\r\n")
    while b"some" not in visitor.recv(65536):
        pass
    return visitor


def check(binary, folder, options):
    (folder / "server.toml").write_text(SERVER)
    new = [binary, "token", "new", "resident", "--clients", str(folder / "clients.toml")]
    token = subprocess.run(new, check=True, text=True, capture_output=True).stdout.strip()
    server = Program([binary, "server", "--config", str(folder / "server.toml")])
    programs = [server]
    try:
        said = [r"agents dial +(\S+)", r"NAME\.localhost:(\d+)/", r"admin +(\S+)", r"fingerprint +(\S+)"]
        tunnel, port, admin, fingerprint = server.say(*said)
        command = [binary, "http", str(endless_application()), "--server", tunnel, "--id", "resident"]
        command += ["--fingerprint", fingerprint]
        agent = Program(command, env={**os.environ, "ADIT_TOKEN": token})
        programs.append(agent)
        agent.say("(->)")
        download = visit(("127.0.0.1", int(port)))
        secret = (folder / "state" / "admin-token").read_text().strip()
        run = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"), "run"]
        run += [f"{admin}api/v1/openapi.json", "--header", f"Authorization: Bearer {secret}", "--checks", "all"]
        run += ["--max-examples", "50", "--max-time", str(options.seconds)]
        run += [] if options.seed is None else ["--seed", str(options.seed)]
        code = subprocess.run(run, cwd=folder, timeout=options.seconds + GRACE).returncode
        if server.process.poll() is not None:
            sys.exit("the server has ended in the middle of it")
        download.close()
        return code
    finally:
        for program in reversed(programs):
            program.stop()


def main():
    parser = argparse.ArgumentParser(prog="tests/admin")
    parser.add_argument("binary")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="adit-admin-") as folder:
        try:
            sys.exit(check(os.path.abspath(options.binary), Path(folder), options))
        except subprocess.TimeoutExpired:
            sys.exit("schemathesis has not ended in time")


if __name__ == "__main__":
    main()
