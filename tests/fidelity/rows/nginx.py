"""nginx: ranges, conditions, compression, redirects, large files, uploads."""

import hashlib
import os

from matrix import row
from rows.http2 import Connection
from stack import free_port
from wire import Reader, read_answer

GROUP = "nginx"
NAME = "nginx"
OVER_HTTP2 = "nginx2"
SIZE = 100 * 1024 * 1024

CONFIG = """
pid {folder}/nginx.pid; error_log {folder}/error.log; daemon off; worker_processes 1;
events {{ worker_connections 512; }}
http {{
    types {{ text/html html; text/css css; application/json json; }}
    access_log off; default_type application/octet-stream;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    gzip on; gzip_types text/css; gzip_min_length 1; etag on; large_client_header_buffers 4 64k; client_max_body_size 0;
    server {{
        listen 127.0.0.1:{port}; root {folder}/www;
        location /inner/ {{ absolute_redirect off; add_header Set-Cookie "a=1; Path=/inner"; return 302 /inner2/?x=1; }}
        location /limited {{ client_max_body_size 1k; return 200 "ok"; }}
    }}
    server {{ listen 127.0.0.1:{http2} http2; root {folder}/www; client_max_body_size 1k; }}
}}
"""


def start(stack):
    folder = stack.folder / "nginx"
    (folder / "www/directory").mkdir(parents=True)
    (folder / "www/page.html").write_text("<p>page</p>" * 500)
    (folder / "www/style.css").write_text("a { color: red }\n" * 500)
    (folder / "www/directory/index.html").write_text("index")
    (folder / "www/empty").write_text("")
    with open(folder / "www/big", "wb") as big:
        piece = hashlib.sha512(b"big").digest() * 16384
        for _ in range(SIZE // len(piece)):
            big.write(piece)
    for path in (folder / "www").rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    port, http2 = free_port(), free_port()
    (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, port=port, http2=http2))
    stack.start("nginx", ["nginx", "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"], port)
    stack.offer(NAME, f"127.0.0.1:{port}")
    stack.offer(OVER_HTTP2, f"h2c://127.0.0.1:{http2}")


def get(way, target, *fields, method="GET", host=None):
    """One exchange; nginx's own clock is left out."""
    host = host or way.host(NAME)
    lines = "".join(f"{field}\r\n" for field in fields)
    with way.connect(NAME) as sock:
        sock.sendall(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n".encode())
        seen = read_answer(Reader(sock), method.encode())
    seen["fields"] = [(name, value) for name, value in seen["fields"] if name != "date"]
    return seen


def simple(name, target, *fields, method="GET"):
    @row(GROUP, name)
    def _(way):
        return get(way, target, *fields, method=method)


simple("a page", "/page.html")
simple("HEAD", "/page.html", method="HEAD")
simple("an empty file", "/empty")
simple("not found", "/nothing")
simple("method not allowed", "/page.html", method="DELETE")
simple("gzip", "/style.css", "Accept-Encoding: gzip")
simple("no gzip", "/style.css", "Accept-Encoding: identity")
simple("one range", "/page.html", "Range: bytes=10-19")
simple("the last bytes", "/page.html", "Range: bytes=-5")
simple("a range that cannot be", "/page.html", "Range: bytes=1000000-")
simple("If-Modified-Since", "/page.html", "If-Modified-Since: Sun, 09 Sep 2001 01:46:40 GMT")
simple("If-None-Match", "/page.html", 'If-None-Match: "3b9aca00-157c"')
simple("If-Range that does not match", "/page.html", "Range: bytes=0-1", 'If-Range: "other"')
simple("a redirect with a cookie", "/inner/")
simple("a path with two slashes and dots", "//directory/../page.html")


@row(GROUP, "a redirect to a directory, followed as a browser does it")
def _(way):
    host = f"{way.host(NAME)}:{way.port(NAME)}"
    location = dict(get(way, "/directory", host=host)["fields"])["location"].decode()
    # nginx names its own port. Where that leads the visitor is not the origin that it has asked.
    assert location == f"http://{host}/directory/", location
    seen = get(way, location.removeprefix(f"http://{host}"), host=host)
    return {**seen, "short": "301, then 200"}


@row(GROUP, "the same on a path route")
def _(way):
    prefix = f"/{NAME}" if way.title == "tunnelled" else ""
    host = f"{way.stack.host('x').split('.', 1)[1]}:{way.port(NAME)}"
    location = dict(get(way, f"{prefix}/directory", host=host)["fields"])["location"].decode()
    assert location == f"http://{host}{prefix}/directory/", location
    seen = get(way, location.removeprefix(f"http://{host}"), host=host)
    return {**seen, "short": "301, then 200"}


@row(GROUP, "two ranges")
def _(way):
    seen = get(way, "/page.html", "Range: bytes=0-4,10-14")
    boundary = dict(seen["fields"])["content-type"].split(b"boundary=")[1]
    # It counts up with each answer.
    plain = lambda value: value.replace(boundary, b"boundary")
    return {**seen, "body": plain(seen["body"]), "fields": [(name, plain(value)) for name, value in seen["fields"]]}


@row(GROUP, "a body that nginx does not want")
def _(way):
    with way.connect(NAME) as sock:
        head = f"POST /limited HTTP/1.1\r\nHost: {way.host(NAME)}\r\nContent-Length: 1000000\r\n\r\n"
        sock.sendall(head.encode() + b"x" * 1000)
        seen = read_answer(Reader(sock))
    return seen["status"]


@row(GROUP, "the same over HTTP/2, and the visitor goes on: the answer, its end, and a reset without an error (RFC 9113, section 8.1)")
def _(way):
    connection = Connection(way, OVER_HTTP2)
    stream = connection.request("/page.html", "POST", [("content-length", "1000000")], end=False)
    for _ in range(3):
        connection.h2.send_data(stream, b"x" * 16384)
        connection.flush()
    status = dict(connection.of(stream, "ResponseReceived").headers)[":status"]
    connection.of(stream, "StreamEnded")
    return status, int(connection.of(stream, "StreamReset").error_code)


@row(GROUP, "100 MB by curl, checked by their sum")
def _(way):
    return hashlib.sha256(way.curl(NAME, "/big")).hexdigest()


@row(GROUP, "100 MB in eight ranges, put together again")
def _(way):
    step = SIZE // 8
    pieces = [way.curl(NAME, "/big", "--range", f"{at}-{at + step - 1}") for at in range(0, SIZE, step)]
    return hashlib.sha256(b"".join(pieces)).hexdigest()


@row(GROUP, "a path route: Location and cookie paths have the name in front again", (lambda seen: "", "that is what a path route is for"))
def _(way):
    prefix = f"/{NAME}" if way.title == "tunnelled" else ""
    seen = get(way, f"{prefix}/inner/", host=way.stack.host("x").split(".", 1)[1])
    fields = dict(seen["fields"])
    seen = fields["location"].decode(), fields["set-cookie"].decode()
    assert seen == (f"{prefix}/inner2/?x=1", f"a=1; Path={prefix}/inner"), seen
    return ", ".join(seen)
