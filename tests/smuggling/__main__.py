"""One corpus of odd requests, through adit to two real servers that belong to two tenants: nginx and Python's own.

usage: tests/smuggling PROGRAM [NAME…]

For each case, sent to each tenant: the tenant's application sees exactly what the table says, its neighbour sees nothing, the
number of answers fits, each answer is the tenant's own, and afterwards a visitor on a fresh connection gets the answer to its
own question and to no other.
"""

import json
import socket
import ssl
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "fidelity")]

from corpus import CASES, Refusable  # noqa: E402
from stack import Program, free_port, ports_of, run, wait_for  # noqa: E402

BARE = "tunnel.test"
TENANTS = ("alice", "bob")


class Python(BaseHTTPRequestHandler):
    """Bob's application: Python's own parser, and a record of what it saw."""

    protocol_version = "HTTP/1.1"
    seen = []

    def answer(self):
        body = b""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        Python.seen.append((self.command, self.path, body))
        text = f"bob {self.command} {self.path}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def __getattr__(self, name):
        # Any method at all.
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def log_message(self, *_):
        pass


class Quiet(ThreadingHTTPServer):
    """Requests that break off are part of the test."""

    daemon_threads = True

    def handle_error(self, *_):
        pass


class Nginx:
    """Alice's application: nginx, which answers with what it was asked, and keeps a record."""

    def __init__(self, folder):
        self.port, behind, self.folder = free_port(), free_port(), folder / "nginx"
        self.folder.mkdir()
        self.log = self.folder / "seen.log"
        config = self.folder / "nginx.conf"
        config.write_text(
            f"""
            daemon off; worker_processes 1; pid {self.folder}/pid; error_log {self.folder}/error.log;
            events {{ worker_connections 256; }}
            http {{
                log_format seen escape=json '["$status", "$request_method", "$request_uri", "$request_body"]';
                access_log {self.log} seen;
                client_body_temp_path {self.folder}/body; proxy_temp_path {self.folder}/proxy;
                fastcgi_temp_path {self.folder}/f; uwsgi_temp_path {self.folder}/u; scgi_temp_path {self.folder}/s;
                client_body_in_single_buffer on; client_body_buffer_size 256k;
                server {{
                    listen 127.0.0.1:{self.port}; server_name _; ignore_invalid_headers on; merge_slashes off;
                    # It hands each request on to itself: only then does it read bodies.
                    location / {{ proxy_pass http://127.0.0.1:{behind}/; proxy_method GET; proxy_pass_request_body off;
                                  proxy_set_header Content-Length ""; proxy_set_header X-Asked "alice $request_method $request_uri"; }}
                }}
                server {{ listen 127.0.0.1:{behind}; access_log off; location / {{ return 200 "$http_x_asked\\n"; }} }}
            }}
            """
        )
        self.program = Program("nginx", ["nginx", "-p", self.folder, "-c", config], self.port)

    def seen(self):
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        # A request that broke off, or that nginx refuses by itself, is none for what is behind it.
        whole = (line[1:] for line in map(json.loads, lines) if line[0] == "200")
        return [(method, target, body.encode("latin-1")) for method, target, body in whole]


class Stack:
    def __init__(self, program):
        self.programs = []
        folder = self.folder = Path(tempfile.mkdtemp(prefix="adit-smuggling-"))
        self.nginx = Nginx(folder)
        self.programs.append(self.nginx.program)
        python = Quiet(("127.0.0.1", 0), Python)
        threading.Thread(target=python.serve_forever, daemon=True).start()
        (folder / "server.toml").write_text(
            f"""
            clients = "clients.toml"
            tunnel.listen = "127.0.0.1:0"
            tunnel.tls.dir = "certs"
            public.domain = "{BARE}"
            public.http = "127.0.0.1:0"
            public.https = "127.0.0.1:0"
            timeouts.head = "5s"
            timeouts.idle = "5s"
            admin.listen = "off"
            limits.per_ip.requests_per_second = 100000
            limits.per_ip.burst = 100000
            limits.per_ip.connections = 10000
            """
        )
        clients = folder / "clients.toml"
        tokens = {who: run([program, "token", "new", who, "--clients", clients]).decode().strip() for who in TENANTS}
        server = self.start("server", [program, "server", "--config", folder / "server.toml"])
        self.tunnel, self.http, self.https, _ = ports_of(server)
        self.ca = folder / "certs/ca.pem"
        for who, port in zip(TENANTS, (self.nginx.port, python.server_address[1])):
            agent = self.start(
                f"agent of {who}",
                [program, "http", port, "--name", who, "--id", who, "--server", f"127.0.0.1:{self.tunnel}", "--ca", self.ca],
                env={"ADIT_TOKEN": tokens[who]},
            )
            agent.wait("a connected agent", lambda agent=agent: "  ->  " in agent.said())

    def start(self, name, command, port=None, **options):
        self.programs.append(Program(f"adit {name}", command, port, **options))
        return self.programs[-1]

    def seen(self, who):
        return self.nginx.seen() if who == "alice" else list(Python.seen)

    def close(self):
        for program in reversed(self.programs):
            program.end()


def exchange(sock, raw):
    """Sends bytes and reads until the end; what comes is all that comes."""
    sock.settimeout(20)
    got = b""
    try:
        sock.sendall(raw)
        while piece := sock.recv(65536):
            got += piece
    except OSError:
        pass
    finally:
        sock.close()
    return got


def answers(got):
    """Status and body of each answer, in their order; raises if they do not fit each other."""
    found = []
    while got:
        head, end, got = got.partition(b"\r\n\r\n")
        if not end or not head.startswith(b"HTTP/1."):
            raise ValueError(f"no answer: {(head + end)[:100]!r}")
        status = int(head.split(b" ", 2)[1])
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        if 100 <= status < 200:
            continue
        if b"chunked" in fields.get(b"transfer-encoding", b""):
            body = b""
            while True:
                size, _, got = got.partition(b"\r\n")
                size = int(size, 16)
                body, got = body + got[:size], got[size + 2:]
                if size == 0:
                    break
        else:
            length = int(fields.get(b"content-length", len(got)))
            body, got = got[:length], got[length:]
        found.append((status, body))
    return found


def fill(raw, me, other, number):
    for word, value in (
        (b"OTHERHEX", b"%02x%s" % (ord(me[0]), me[1:].encode())),
        (b"UPNAME", me.upper().encode()), (b"UPPER", f"{me}.{BARE}".upper().encode()),
        (b"HOST", f"{me}.{BARE}".encode()), (b"BARE", BARE.encode()), (b"OTHER", other.encode()), (b"ME", me.encode()),
        (b"/N", b"/n%d" % number),
    ):
        raw = raw.replace(word, value)
    return raw


def check(stack, case, me, number):
    """What is wrong with this case; nothing, if it is fine."""
    name, raw, expected = case
    other = next(who for who in TENANTS if who != me)
    raw = fill(raw, me, other, number)
    canary = b"GET /canary%d HTTP/1.1\r\nHost: %s.%s\r\nConnection: close\r\n\r\n" % (number, me.encode(), BARE.encode())
    before = {who: len(stack.seen(who)) for who in TENANTS}
    sock = socket.create_connection(("127.0.0.1", stack.http))
    got = exchange(sock, raw + canary)
    problems = []
    for who in TENANTS:
        asked = b"GET /victim%d-%s HTTP/1.1\r\nHost: %s.%s\r\nConnection: close\r\n\r\n" % (
            number, who.encode(), who.encode(), BARE.encode())
        victim = answers(exchange(socket.create_connection(("127.0.0.1", stack.http)), asked))
        if victim != [(200, b"%s GET /victim%d-%s\n" % (who.encode(), number, who.encode()))]:
            problems.append(f"{who}'s next visitor got {victim}")
    seen = {}
    for who in TENANTS:
        last = ("GET", f"/victim{number}-{who}", b"")
        wait_for("the victim in the record", lambda: last in stack.seen(who)[before[who]:])
        seen[who] = [request for request in stack.seen(who)[before[who]:] if request != last]
    if isinstance(expected, tuple):
        # It is the neighbour who is meant.
        (expected,) = expected
        wanted = [(method, fill(target.encode(), me, other, number).decode(), body) for method, target, body in expected]
        meant, expected = wanted, []
    else:
        meant = []
    if seen[other] != meant:
        problems.append(f"{other} saw {seen[other]} instead of {meant}")
    last = ("GET", f"/canary{number}", b"")
    mine = [request for request in seen[me] if request != last]
    if any("smuggled" in target for _, target, _ in mine):
        problems.append(f"a smuggled request was seen: {mine}")
    if expected is None:
        if len(mine) > 1:
            problems.append(f"{me} saw more than one request: {mine}")
    elif not (isinstance(expected, Refusable) and not mine):
        wanted = [(method, fill(target.encode(), me, other, number).decode(), body) for method, target, body in expected]
        if mine != wanted:
            problems.append(f"{me} saw {mine} instead of {wanted}")
    try:
        came = answers(got)
    except ValueError as error:
        return [*problems, str(error)]
    served = [body for status, body in came if status == 200]
    asked = [b"%s %s %s\n" % (who.encode(), method.encode(), target.encode("latin-1"))
             for who in ([other, me] if meant else [me]) for method, target, _ in seen[who]]
    if served != asked[:len(served)] or not set(served) <= set(asked):
        problems.append(f"{me}'s visitor got {served}, its application was asked {asked}")
    if len(came) > 2:
        problems.append(f"{len(came)} answers to two requests")
    return problems


def other_name(stack):
    """A host that is not the one in the TLS handshake: whoever is named in the request answers, nobody else sees it."""
    context = ssl.create_default_context(cafile=stack.ca)
    problems = []
    for me, other in (TENANTS, TENANTS[::-1]):
        context.check_hostname = False
        plain = socket.create_connection(("127.0.0.1", stack.https))
        sock = context.wrap_socket(plain, server_hostname=f"{other}.{BARE}")
        asked = f"GET /sni-{me} HTTP/1.1\r\nHost: {me}.{BARE}\r\nConnection: close\r\n\r\n".encode()
        sock.sendall(asked)
        got = b""
        while piece := sock.recv(65536):
            got += piece
        came = answers(got)
        if came not in ([(200, f"{me} GET /sni-{me}\n".encode())], [(421, came[0][1])]):
            problems.append(f"{me} by {other}'s handshake: {came}")
        if any("sni" in target and not target.endswith(who) for who in TENANTS for _, target, _ in stack.seen(who)):
            problems.append("it was seen by the wrong one")
    return problems


def main():
    program, names = sys.argv[1], sys.argv[2:]
    began = time.monotonic()
    stack = Stack(program)
    failed = 0
    try:
        cases = [case for case in CASES if not names or case[0] in names]
        for number, case in enumerate(cases):
            for me in TENANTS:
                problems = check(stack, case, me, 2 * number + TENANTS.index(me))
                for problem in problems:
                    print(f"FAILED  {case[0]} ({me}): {problem}")
                failed += bool(problems)
        problems = other_name(stack)
        for problem in problems:
            print(f"FAILED  another name in TLS: {problem}")
        failed += bool(problems)
    finally:
        stack.close()
    print(f"{2 * len(cases) + 1} cases, {failed} failed, {time.monotonic() - began:.0f} s")
    sys.exit(1 if failed else 0)


main()
