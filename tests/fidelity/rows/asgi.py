"""A Python application under uvicorn and under hypercorn: streams of events and tokens, long polling, WebSockets."""

import asyncio
import hashlib
import json
import os
import statistics
import sys
import threading
import time

from matrix import row
from stack import HERE, free_port
from wire import Reader, read_answer

SERVERS = {
    "uvicorn": lambda port: ["-m", "uvicorn", "--app-dir", HERE / "apps", "--port", str(port), "--log-level", "warning", "asgi:app"],
    "hypercorn": lambda port: ["-m", "hypercorn", "--bind", f"127.0.0.1:{port}", "--log-level", "warning", "asgi:app"],
}


def offer(stack, name):
    """Starts a server, once, and offers it."""
    if name not in stack.services:
        port = free_port()
        stack.start(name, [sys.executable, *SERVERS[name](port)], port, env={"PYTHONPATH": str(HERE / "apps")})
        stack.offer(name, f"127.0.0.1:{port}")


def start(stack):
    for name in SERVERS:
        offer(stack, name)


def arrivals(way, name, path):
    """What comes, and when."""
    with way.connect(name) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {way.host(name)}\r\n\r\n".encode())
        reader = Reader(sock)
        reader.until(b"\r\n\r\n")
        pieces = []
        while size := int(reader.until(b"\r\n"), 16):
            pieces.append((time.monotonic(), reader.exactly(size)))
            reader.exactly(2)
        return pieces


async def talk(way, name, script, path="/socket", **options):
    from websockets.asyncio.client import connect

    uri = f"ws://{way.host(name)}{path}"
    async with connect(uri, sock=way.connect(name), open_timeout=20, **options) as socket:
        return await script(socket)


for server in SERVERS:
    group = f"ASGI under {server}"

    @row(group, "server-sent events, each by itself")
    def _(way, server=server):
        pieces = arrivals(way, server, "/events?5")
        lines = [piece.split(b"data:")[0] for _, piece in pieces]
        gaps = [after[0] - before[0] for before, after in zip(pieces, pieces[1:])]
        assert min(gaps) > 0.005, f"events came together: {gaps}"
        return {"short": f"{len(lines)} events, one by one", "lines": lines}

    @row(group, "a stream of tokens, each by itself")
    def _(way, server=server):
        pieces = [piece for _, piece in arrivals(way, server, "/tokens")]
        return {"short": f"{len(pieces)} lines, one by one", "pieces": pieces}

    @row(group, "long polling")
    def _(way, server=server):
        with way.connect(server) as sock:
            sock.sendall(f"GET /poll HTTP/1.1\r\nHost: {way.host(server)}\r\n\r\n".encode())
            threading.Timer(0.3, lambda: way.curl(server, "/wake")).start()
            return read_answer(Reader(sock))["body"].decode()

    @row(group, "an upload of 20 MB, echoed while it runs")
    def _(way, server=server):
        sent = os.urandom(1024) * 20_000
        path = way.stack.folder / "upload"
        path.write_bytes(sent)
        for framing in ([], ["--header", "Transfer-Encoding: chunked"]):
            got = way.curl(server, "/echo", "--data-binary", f"@{path}", "--header", "Expect:", *framing)
            assert hashlib.sha256(got).digest() == hashlib.sha256(sent).digest()
        return "the same bytes, by length and in chunks"

    @row(group, "curl's own 100-continue with 2 MB")
    def _(way, server=server):
        path = way.stack.folder / "upload"
        path.write_bytes(b"c" * 2_000_000)
        got = way.curl(server, "/echo", "--data-binary", f"@{path}", "--header", "Expect: 100-continue")
        return f"{len(got)} bytes"

    @row(group, "WebSocket: text, binary, ping, a subprotocol, a close code")
    def _(way, server=server):
        async def script(socket):
            seen = [socket.subprotocol]
            await socket.send("héllo")
            seen.append(await socket.recv())
            await socket.send(bytes(range(256)))
            seen.append(await socket.recv() == bytes(range(255, -1, -1)))
            await (await socket.ping(b"ping"))
            await socket.send("close 4321")
            await socket.wait_closed()
            return seen + [socket.close_code, socket.close_reason]

        return asyncio.run(talk(way, server, script, subprotocols=["one", "two"]))

    @row(group, "WebSocket: a message of 8 MB, there and back")
    def _(way, server=server):
        async def script(socket):
            sent = os.urandom(8_000_000)
            await socket.send(sent)
            return f"{(await socket.recv()) == sent[::-1]}"

        return asyncio.run(talk(way, server, script, max_size=None))

    @row(group, "WebSocket: closed by the visitor")
    def _(way, server=server):
        async def script(socket):
            await socket.send("a")
            first = await socket.recv()
            await socket.close(4000, "enough")
            return [first, socket.close_code, socket.close_reason]

        return asyncio.run(talk(way, server, script))

    @row(group, "WebSocket: refused by the application")
    def _(way, server=server):
        from websockets.exceptions import InvalidStatus

        async def script(socket):
            return "open"

        try:
            return asyncio.run(talk(way, server, script, path="/forbidden"))
        except InvalidStatus as refused:
            return refused.response.status_code


def measure(*ways):
    """How long an event takes from the application to the visitor: both read one clock."""

    def delays(way):
        pieces = arrivals(way, "uvicorn", "/events?50")
        return [1000 * (came - json.loads(piece.split(b"data: ")[1])["at"]) for came, piece in pieces]

    def round_trips(way):
        async def script(socket):
            times = []
            for _ in range(300):
                before = time.perf_counter()
                await socket.send("x")
                await socket.recv()
                times.append(1000 * (time.perf_counter() - before))
            return times

        return asyncio.run(talk(way, "uvicorn", script))

    events = [statistics.median(delays(way)) for way in ways]
    sockets = [statistics.median(round_trips(way)) for way in ways]
    assert events[1] - events[0] < 20, f"events are held back: {events}"
    return [("an event, from the application to the visitor", *events), ("a WebSocket message, there and back", *sockets)]
