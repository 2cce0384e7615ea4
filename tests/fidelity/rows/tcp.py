"""Public ports: Redis, PostgreSQL, and a plain echo."""

import glob
import os
import pwd
import socket
import threading
from pathlib import Path

from matrix import row
from stack import Missing, free_port, run
from wire import Reader

GROUP = "TCP"


def start(stack):
    redis = free_port()
    stack.start("redis", ["redis-server", "--port", redis, "--save", "", "--appendonly", "no", "--dir", stack.folder], redis)
    stack.offer("redis", f"127.0.0.1:{redis}", kind="tcp")
    start_postgres(stack)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=late_echo, args=(listener,), daemon=True).start()
    stack.offer("late", f"127.0.0.1:{listener.getsockname()[1]}", kind="tcp")


def start_postgres(stack):
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    if not found:
        raise Missing("PostgreSQL's server programs are not installed")
    programs, folder, port = Path(found[-1]), stack.folder / "postgres", free_port()
    # It refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    folder.mkdir(mode=0o700)
    if user:
        owner = pwd.getpwnam(user)
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    run([programs / "initdb", "-D", folder, "-A", "trust", "-U", "tester", "--no-sync"], user=user, cwd="/")
    options = ["-D", folder, "-p", port, "-h", "127.0.0.1", "-k", folder, "-F"]
    server = stack.start("postgres", [programs / "postgres", *options], port, user=user)
    stack.offer("postgres", f"127.0.0.1:{port}", kind="tcp")
    psql = ["psql", "-h", "127.0.0.1", "-p", port, "-U", "tester", "-d", "postgres", "-c", "select 1"]
    server.wait("PostgreSQL that answers", lambda: answers(psql))


def answers(command):
    try:
        return run(command)
    except RuntimeError:
        return None


def late_echo(listener):
    """Answers only when the other side has said everything."""
    while True:
        sock, _ = listener.accept()
        with sock:
            sock.sendall(Reader(sock).to_end()[::-1])


@row(GROUP, "Redis: PING, SET and GET of 1 MB, a pipeline of 1,000")
def _(way):
    with way.connect("redis") as sock:
        reader = Reader(sock)
        sock.sendall(b"PING\r\n")
        seen = [reader.until(b"\r\n")]
        value = os.urandom(1_000_000)
        sock.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n%s\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n" % (len(value), value))
        seen += [reader.until(b"\r\n"), reader.until(b"\r\n")]
        seen.append(reader.exactly(len(value)) == value)
        reader.exactly(2)
        sock.sendall(b"DEL n\r\n" + b"INCR n\r\n" * 1000)
        reader.until(b"\r\n")
        seen.append(sum(int(reader.until(b"\r\n")[1:]) for _ in range(1000)))
        return seen


@row(GROUP, "Redis: a subscriber, and a message from elsewhere")
def _(way):
    with way.connect("redis") as hears, way.connect("redis") as says:
        hears.sendall(b"SUBSCRIBE news\r\n")
        reader = Reader(hears)
        reader.until(b":1\r\n")
        says.sendall(b"PUBLISH news hello\r\n")
        return reader.until(b"hello\r\n")


@row(GROUP, "redis-cli")
def _(way):
    return run(["redis-cli", "-h", "127.0.0.1", "-p", way.port("redis"), "eval", "return {1, 'two', {3}}", "0"]).decode().split()


def psql(way, *arguments, **options):
    base = ["psql", "-h", "127.0.0.1", "-p", way.port("postgres"), "-U", "tester", "-d", "postgres", "-qAt", "-v", "ON_ERROR_STOP=1"]
    return run([*base, *arguments], **options).decode().strip()


@row(GROUP, "PostgreSQL: a query")
def _(way):
    return psql(way, "-c", "select 6 * 7, 'é'")


@row(GROUP, "PostgreSQL: COPY of 100,000 lines in and out")
def _(way):
    lines = "".join(f"{n}\t{'x' * 50}\n" for n in range(100_000)).encode()
    script = "create temp table t (n int, x text); copy t from stdin;\n" + lines.decode() + "\\.\n copy t to stdout;"
    got = psql(way, input=script.encode())
    return "the same lines" if got.encode() + b"\n" == lines else f"{len(got)} bytes"


@row(GROUP, "PostgreSQL: a query that takes a second, an error, a notice")
def _(way):
    return psql(way, "-c", "select pg_sleep(1)", "-c", "do $$ begin raise notice 'note'; end $$", "-c", "select 1")


@row(GROUP, "an answer after the visitor has said everything")
def _(way):
    sent = os.urandom(3_000_000)
    with way.connect("late") as sock:
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        return Reader(sock).to_end() == sent[::-1]


@row(GROUP, "a visitor that leaves without a word")
def _(way):
    for _ in range(20):
        way.connect("late").close()
    with way.connect("late") as sock:
        sock.sendall(b"abc")
        sock.shutdown(socket.SHUT_WR)
        return Reader(sock).to_end()
