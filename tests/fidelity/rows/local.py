"""Other ways to a local application: https, a Unix socket, the PROXY protocol out, changed fields."""

import socket
import ssl
import sys
import threading

from matrix import row
from rows import tls
from stack import HERE, free_port, wait_for
from wire import Reader, read_answer

GROUP = "local applications"

NGINX = """
pid {folder}/pid; error_log {folder}/error.log; daemon off; worker_processes 1;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port} proxy_protocol; location / {{ return 200 "$proxy_protocol_addr $request_uri"; }} }}
    server {{ listen 127.0.0.1:{plain}; location / {{ return 200 "$remote_addr $request_uri"; }} }}
}}
"""


def start(stack):
    cert, key = tls.certificate(stack, "secure", "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=tls.serve, args=(listener, context, tls.hello), daemon=True).start()
    port = listener.getsockname()[1]
    stack.secure_cert = cert
    stack.offer("secure", f"https://localhost:{port}", ca=str(cert))
    stack.offer("skipped", f"https://127.0.0.1:{port}", insecure_skip_verify=True)
    stack.offer("unverified", f"https://localhost:{port}")
    stack.unix = stack.folder / "app.sock"
    program = [sys.executable, "-m", "uvicorn", "--app-dir", HERE / "apps", "--uds", stack.unix, "--log-level", "warning", "asgi:app"]
    stack.start("uvicorn on a Unix socket", program).wait("a Unix socket", stack.unix.exists)
    stack.offer("unix", f"unix:{stack.unix}")
    folder, port, plain = stack.folder / "proxied", free_port(), free_port()
    folder.mkdir()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, plain=plain))
    stack.start("nginx behind the PROXY protocol", ["nginx", "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"], port)
    stack.offer("told", f"127.0.0.1:{plain}")
    for version in ("v1", "v2"):
        stack.offer(f"told-{version}", f"127.0.0.1:{port}", proxy_protocol=version)


@row(GROUP, "https, verified by an authority of one's own")
def _(way):
    if way.title == "direct":
        return way.curl("secure", "/", "--cacert", way.stack.secure_cert, "--resolve", "localhost:1:127.0.0.1", "--insecure", tls=True).decode()
    return way.curl("secure", "/").decode().replace("http/1.1", "None")


@row(GROUP, "https, not verified because that was asked for")
def _(way):
    return way.curl("skipped", "/", "--insecure", tls=way.title == "direct").decode().replace("http/1.1", "None")


@row(GROUP, "https with a certificate that nobody vouches for", (lambda seen: "", "a visitor in a browser would get a warning; through the tunnel it is 502"))
def _(way):
    if way.title == "direct":
        return "a warning"
    with way.connect("unverified") as sock:
        sock.sendall(f"GET / HTTP/1.1\r\nHost: {way.host('unverified')}\r\n\r\n".encode())
        seen = read_answer(Reader(sock))
    assert (seen["status"], dict(seen["fields"])["x-adit-error"]) == (502, b"local_unreachable"), seen
    return "502 local_unreachable"


@row(GROUP, "a Unix socket")
def _(way):
    host = way.host("unix")
    if way.title == "direct":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(way.stack.unix))
    else:
        sock = way.connect("unix")
    with sock:
        sock.sendall(f"POST /seen?x HTTP/1.1\r\nHost: {host}\r\nX-Mine: 1\r\nContent-Length: 4\r\n\r\nbody".encode())
        return read_answer(Reader(sock))["body"].decode()


for version in ("v1", "v2"):

    @row(GROUP, f"the visitor's address by the PROXY protocol {version}")
    def _(way, version=version):
        # Straight to the other port of the same nginx, it sees the visitor itself.
        name = "told" if way.title == "direct" else f"told-{version}"
        return [way.curl(name, path).decode() for path in ("/a", "/b")]
