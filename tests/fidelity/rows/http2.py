"""HTTP/2 by prior knowledge: many requests at once, flow control, visitors that leave, WebSockets (RFC 8441)."""

import hashlib
import os
import socket
import time

from matrix import row
from rows import asgi
from stack import PATIENCE

GROUP = "HTTP/2"
# hypercorn speaks HTTP/2 itself, so that there is something to compare with.
NAME = "hypercorn"
H2C = "--http2-prior-knowledge"


def start(stack):
    asgi.offer(stack, NAME)


def curl(way, path, *options):
    return way.curl(NAME, path, H2C, *options)


@row(GROUP, "a request and its answer")
def _(way):
    return curl(way, "/seen?a=b&c", "--cookie", "a=1; b=2", "--header", "X-Mine: 1", "--data", "body").decode()


@row(GROUP, "the version that curl sees")
def _(way):
    return curl(way, "/seen", "--write-out", "%{http_version} %{http_code}", "--output", os.devnull).decode()


@row(GROUP, "HEAD, 404, 204")
def _(way):
    options = ["--output", os.devnull, "--write-out", "%{http_code} %{size_download} "]
    return (curl(way, "/seen", "--head", *options) + curl(way, "/none", *options) + curl(way, "/wake", *options)).decode()


@row(GROUP, "an upload of 20 MB, echoed while it runs")
def _(way):
    sent = os.urandom(1024) * 20_000
    path = way.stack.folder / "upload2"
    path.write_bytes(sent)
    got = curl(way, "/echo", "--data-binary", f"@{path}", "--header", "Expect:")
    return "the same bytes" if hashlib.sha256(got).digest() == hashlib.sha256(sent).digest() else f"{len(got)} bytes"


@row(GROUP, "an event stream")
def _(way):
    return f"{curl(way, '/events?3').count(b'event: tick')} events"


class Connection:
    """A visitor's HTTP/2 connection, frame by frame."""

    def __init__(self, way, name, tls=None):
        import h2.config
        import h2.connection

        self.way, self.name = way, name
        if tls:
            sock = socket.create_connection(("127.0.0.1", way.tls_port(name)), timeout=PATIENCE)
            self.sock = tls.wrap_socket(sock, server_hostname=way.host(name))
        else:
            self.sock = way.connect(name)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.flush()
        self.events = []
        # Of these streams nothing is acknowledged, so that their windows stay full.
        self.stalled = set()

    def flush(self):
        self.sock.sendall(self.h2.data_to_send())

    def request(self, path, method="GET", fields=(), end=True, scheme="http"):
        stream = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":scheme", scheme), (":authority", self.way.host(self.name)), (":path", path)]
        self.h2.send_headers(stream, head + list(fields), end_stream=end)
        self.flush()
        return stream

    def next(self, wanted):
        """The first event that `wanted` accepts; data that comes is acknowledged."""
        import h2.events

        while True:
            for at, event in enumerate(self.events):
                if wanted(event):
                    return self.events.pop(at)
            data = self.sock.recv(65536)
            if not data:
                raise EOFError("the connection ended")
            for event in self.h2.receive_data(data):
                if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.stalled:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self.events.append(event)
            self.flush()

    def of(self, stream, name):
        return self.next(lambda event: type(event).__name__ == name and event.stream_id == stream)

    def answer(self, stream):
        """Status and body of a whole answer."""
        status = dict(self.of(stream, "ResponseReceived").headers)[":status"]
        body = b""
        while True:
            event = self.next(lambda event: getattr(event, "stream_id", None) == stream and type(event).__name__ in ("DataReceived", "StreamEnded"))
            if type(event).__name__ == "StreamEnded":
                return status, body
            body += event.data


@row(GROUP, "fifty requests on one connection, the slow ones first")
def _(way):
    connection = Connection(way, NAME)
    streams = [connection.request(f"/events?{5 - n // 10}") for n in range(50)]
    answers = [connection.answer(stream) for stream in streams]
    return [(status, body.count(b"event: tick")) for status, body in answers][::10]


@row(GROUP, "cookies in several fields")
def _(way):
    connection = Connection(way, NAME)
    stream = connection.request("/seen", fields=[("cookie", "a=1"), ("cookie", "b=2")])
    return connection.answer(stream)[1].decode().replace('"cookie: a=1", "cookie: b=2"', '"cookie: a=1; b=2"')


def web_socket(way, tls=None, name=NAME):
    """A WebSocket over HTTP/2: a word there and back, and a close code."""
    from wsproto.connection import Connection as Socket, ConnectionType
    from wsproto.events import CloseConnection, TextMessage

    connection = Connection(way, name, tls)
    settings = connection.next(lambda event: type(event).__name__ == "RemoteSettingsChanged")
    welcome = {int(code): changed.new_value for code, changed in settings.changed_settings.items()}.get(8)
    fields = [(":protocol", "websocket"), ("sec-websocket-version", "13")]
    stream = connection.h2.get_next_available_stream_id()
    head = [(":method", "CONNECT"), (":scheme", "https" if tls else "http"), (":authority", way.host(name)), (":path", "/socket")]
    connection.h2.send_headers(stream, head[:1] + fields[:1] + head[1:] + fields[1:])
    connection.flush()
    status = dict(connection.of(stream, "ResponseReceived").headers)[":status"]
    frames = Socket(ConnectionType.CLIENT)
    seen = [welcome, status]

    def say(event):
        connection.h2.send_data(stream, frames.send(event))
        connection.flush()

    say(TextMessage(data="hello"))
    say(TextMessage(data="close 4005"))
    while True:
        frames.receive_data(connection.of(stream, "DataReceived").data)
        for event in frames.events():
            if isinstance(event, CloseConnection):
                return seen + [event.code]
            if isinstance(event, TextMessage):
                seen.append(event.data)


@row(GROUP, "a WebSocket over HTTP/2, to an application that speaks HTTP/1.1 to the agent")
def _(way):
    return web_socket(way)


@row(GROUP, "no body, an empty one with its length, and an empty one without")
def _(way):
    connection = Connection(way, NAME)
    seen = []
    for fields, end in (([], True), ([("content-length", "0")], True), ([("content-length", "0")], False), ([], False)):
        stream = connection.request("/framing", "POST", fields, end)
        if not end:
            connection.h2.end_stream(stream)
            connection.flush()
        seen.append(connection.answer(stream)[1].decode())
    return seen


@row(GROUP, "an event stream, each event by itself")
def _(way):
    connection = Connection(way, NAME)
    stream, times = connection.request("/events?5"), []
    for number in range(5):
        while b"event: tick" not in connection.of(stream, "DataReceived").data:
            pass
        times.append(time.monotonic())
    gaps = [after - before for before, after in zip(times, times[1:])]
    assert min(gaps) > 0.005, f"events came together: {gaps}"
    return "5 events, one by one"


@row(GROUP, "an answer that nobody takes holds up no other on its connection")
def _(way):
    connection = Connection(way, NAME)
    # Else the stalled answer would fill the window of the whole connection, which is nobody's fault but the visitor's.
    connection.h2.increment_flow_control_window(10_000_000)
    connection.flush()
    stalled = connection.request("/bytes?5000000")
    connection.stalled.add(stalled)
    connection.of(stalled, "DataReceived")
    others = [connection.answer(connection.request(f"/bytes?{size}")) for size in (16384, 3_276_800)]
    return [(status, len(body)) for status, body in others]


for name, path, first in [("before the answer", "/hold", None), ("in the middle of the answer", "/hold?some", "DataReceived")]:

    @row(GROUP, f"a visitor that resets a request {name}: the application learns of it")
    def _(way, path=path, first=first):
        connection = Connection(way, NAME)
        stream = connection.request(path)
        if first:
            connection.of(stream, first)
        else:
            # The request has arrived when a later one has been answered.
            connection.answer(connection.request("/bytes?16384"))
            time.sleep(0.2)
        connection.h2.reset_stream(stream, 8)
        connection.flush()
        return connection.answer(connection.request("/left"))


@row(GROUP, "an upload that is cancelled, and another request after it")
def _(way):
    connection = Connection(way, NAME)
    stream = connection.request("/echo", "POST", end=False)
    connection.h2.send_data(stream, b"some")
    connection.flush()
    connection.of(stream, "DataReceived")
    connection.h2.reset_stream(stream, 8)
    connection.flush()
    return connection.answer(connection.request("/bytes?16384"))[0]
