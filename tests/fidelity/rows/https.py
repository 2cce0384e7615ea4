"""HTTPS: hypercorn with a certificate of its own, and the server with its own in front of it."""

import os
import socket
import ssl
import sys

from matrix import row
from rows.http2 import Connection, web_socket
from rows.tls import certificate
from stack import HERE, PATIENCE, free_port

GROUP = "HTTPS"
NAME = "secured"


def start(stack):
    if NAME in stack.services:
        return
    # The agent asks for `localhost`, visitors for the name.
    stack.secured_cert, key = certificate(stack, NAME, "localhost", stack.host(NAME))
    port = free_port()
    program = ["-m", "hypercorn", "--bind", f"127.0.0.1:{port}", "--certfile", stack.secured_cert, "--keyfile", key, "asgi:app"]
    stack.start("hypercorn with TLS", [sys.executable, *program], port, env={"PYTHONPATH": str(HERE / "apps")})
    stack.offer(NAME, f"https://localhost:{port}", ca=str(stack.secured_cert))


def authority(way):
    """Whom a visitor trusts, this way and that."""
    return way.stack.secured_cert if way.title == "direct" else way.stack.ca


def context(way, *protocols):
    made = ssl.create_default_context(cafile=authority(way))
    made.set_alpn_protocols(protocols)
    return made


for name, options in [
    ("HTTP/2 over TLS 1.3", ["--http2"]),
    ("HTTP/1.1 over TLS 1.3", ["--http1.1"]),
    ("HTTP/2 over TLS 1.2", ["--http2", "--tls-max", "1.2"]),
]:

    @row(GROUP, f"curl: {name}")
    def _(way, options=options):
        wanted = "%{http_version} %{http_code} %{ssl_verify_result} %{size_download}"
        trust = ["--cacert", authority(way), "--output", os.devnull, "--write-out", wanted]
        return way.curl(NAME, "/seen?a=b", *options, *trust, "--header", "X-Mine: 1", tls=True).decode()


@row(GROUP, "a request and its answer, by both versions")
def _(way):
    trust = ["--cacert", authority(way), "--header", "X-Mine: 1", "--cookie", "a=1; b=2", "--data", "body"]
    return [way.curl(NAME, "/seen?a=b", version, *trust, tls=True).decode() for version in ("--http1.1", "--http2")]


def handshake(way, made, session=None):
    sock = socket.create_connection(("127.0.0.1", way.tls_port(NAME)), timeout=PATIENCE)
    return made.wrap_socket(sock, server_hostname=way.host(NAME), session=session)


for offered in (["h2", "http/1.1"], ["http/1.1"], ["h2"], []):

    @row(GROUP, f"ALPN: {', '.join(offered) or 'none'}")
    def _(way, offered=offered):
        with handshake(way, context(way, *offered)) as stream:
            return f"{stream.selected_alpn_protocol()}, {stream.version()}"


@row(GROUP, "a session that is resumed")
def _(way):
    made = context(way, "http/1.1")
    ask = f"GET /bytes?16384 HTTP/1.1\r\nHost: {way.host(NAME)}\r\n\r\n".encode()
    with handshake(way, made) as stream:
        stream.sendall(ask)
        # Its ticket comes with the first words.
        stream.recv(100)
        session = stream.session
    with handshake(way, made, session) as stream:
        return stream.session_reused


@row(GROUP, "an event stream, each event by itself")
def _(way):
    connection = Connection(way, NAME, context(way, "h2"))
    stream = connection.request("/events?3", scheme="https")
    status, body = connection.answer(stream)
    return status, body.count(b"event: tick")


@row(GROUP, "a WebSocket over HTTP/2")
def _(way):
    return web_socket(way, context(way, "h2"), NAME)
