"""An application's own TLS, through the HTTPS port to the visitor: the server never sees plain text."""

import hashlib
import ssl
import socket
import threading

from matrix import row
from stack import PATIENCE, run

GROUP = "TLS of the application's own"
NAME = "own"


def certificate(stack, name, *hosts):
    """A certificate and its key, for these hosts."""
    cert, key = stack.folder / f"{name}.pem", stack.folder / f"{name}.key"
    run([
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-keyout", key, "-out", cert, "-subj", f"/CN={hosts[0]}", "-addext", f"subjectAltName={','.join(f'DNS:{host}' for host in hosts)}",
    ])
    return cert, key


def serve(listener, context, answer):
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve_one, args=(sock, context, answer), daemon=True).start()


def serve_one(sock, context, answer):
    try:
        with context.wrap_socket(sock, server_side=True) as stream:
            answer(stream)
    except OSError:
        pass


def hello(stream):
    asked = b""
    while b"\r\n\r\n" not in asked:
        asked += stream.recv(65536)
    body = f"{stream.version()} {stream.cipher()[0]} {stream.selected_alpn_protocol()}".encode()
    stream.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


def start(stack):
    stack.own_cert, key = certificate(stack, "own", stack.host(NAME))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(stack.own_cert, key)
    context.set_alpn_protocols(["http/1.1", "special/1"])
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, args=(listener, context, hello), daemon=True).start()
    stack.offer(NAME, f"127.0.0.1:{listener.getsockname()[1]}", kind="tls")


@row(GROUP, "the certificate that a visitor sees, by its sum")
def _(way):
    context = ssl.create_default_context(cafile=way.stack.own_cert)
    sock = socket.create_connection(("127.0.0.1", way.tls_port(NAME)), timeout=PATIENCE)
    with context.wrap_socket(sock, server_hostname=way.host(NAME)) as stream:
        seen = hashlib.sha256(stream.getpeercert(binary_form=True)).hexdigest()
    own = ssl.PEM_cert_to_DER_cert(way.stack.own_cert.read_text())
    assert seen == hashlib.sha256(own).hexdigest()
    # It is another one at each run.
    return "the application's own"


@row(GROUP, "curl, with the application's certificate")
def _(way):
    return way.curl(NAME, "/", "--cacert", way.stack.own_cert, tls=True).decode()


@row(GROUP, "a protocol that nobody else knows, by ALPN")
def _(way):
    context = ssl.create_default_context(cafile=way.stack.own_cert)
    context.set_alpn_protocols(["special/1"])
    sock = socket.create_connection(("127.0.0.1", way.tls_port(NAME)), timeout=PATIENCE)
    with context.wrap_socket(sock, server_hostname=way.host(NAME)) as stream:
        return stream.selected_alpn_protocol()
