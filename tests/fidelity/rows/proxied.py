"""The PROXY protocol in: who the visitor is, by the word of a proxy in front."""

import socket

from matrix import row
from stack import PATIENCE
from wire import Reader, read_message

GROUP = "a proxy in front"
NAME = "behind"
# The server takes the header from this address, and from no other.
PROXY = ("127.0.0.9", 0)
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 5555 80\r\n"
V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes([192, 0, 2, 7, 198, 51, 100, 1, 0x15, 0xB3, 0, 80])


def start(stack):
    stack.offer(NAME, f"127.0.0.1:{stack.recorder.port}")

    def tell(sock, reader):
        _, fields, *_ = read_message(reader)
        body = dict(fields).get("x-forwarded-for", b"nobody")
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        return True

    stack.recorder.answers["behind"] = tell


def ask(way, source, header):
    """What the application is told of a visitor from there, who begins like that."""
    with socket.create_connection(("127.0.0.1", way.stack.http), timeout=PATIENCE, source_address=source) as sock:
        sock.sendall(header + f"GET / HTTP/1.1\r\nHost: {way.host(NAME)}\r\nX-Row: behind\r\nConnection: close\r\n\r\n".encode())
        try:
            answer = Reader(sock).to_end()
        except ConnectionError:
            return "closed"
        return answer.split(b"\r\n")[0].decode()[9:12] + " " + answer.rsplit(b"\n", 1)[-1].decode() if answer else "closed"


for name, source, header, expected in [
    ("version 1, from a trusted address", PROXY, V1, "200 192.0.2.7"),
    ("version 2, from a trusted address", PROXY, V2, "200 192.0.2.7"),
    ("a proxy that speaks for itself", PROXY, b"PROXY UNKNOWN\r\n", "200 127.0.0.9"),
    ("no header from a trusted address", PROXY, b"", "closed"),
    ("a header from anybody else", ("127.0.0.1", 0), V1, "400 "),
]:

    @row(GROUP, name, (lambda seen: "", "only the server takes such a header"))
    def _(way, source=source, header=header, expected=expected):
        if way.title == "direct":
            return "not asked"
        seen = ask(way, source, header)
        assert seen == expected, seen
        return seen
