"""The edges of HTTP/1.1: what is seldom said, said twice, said wrongly, or said on a connection that has become another."""

import socket
import struct
import threading
import time
from urllib.parse import unquote_to_bytes

from matrix import row
from rows import http1
from rows.http1 import NAME, OK, answer, ask, request
from wire import Reader, head_of, read_answer, read_message

GROUP = "HTTP/1.1, the edges"


def start(stack):
    if NAME not in stack.services:
        http1.start(stack)


def simple(name, first=b"GET / HTTP/1.1", fields=b"", body=b"", answer=OK, difference=None):
    @row(GROUP, name, difference)
    def _(way):
        return ask(way, name, request(way, name, first, fields, body), answer)


def but(**changed):
    """Makes both sides alike in these."""
    return lambda seen: {**seen, **{key: change(seen[key]) for key, change in changed.items()}}


def dropped(*names):
    return lambda fields: [field for field in fields if field[0] not in names]


def of_asked(change):
    return lambda asked: [{**one, **{key: do(one[key]) for key, do in change.items()}} for one in asked]


# Heads without a body, and what they say of one.
simple("HEAD of what comes in chunks", b"HEAD / HTTP/1.1", answer=answer(fields=b"Transfer-Encoding: chunked\r\n"))
simple("HEAD of nobody knows what", b"HEAD / HTTP/1.1", answer=answer(fields=b"X-A: 1\r\n"))
simple("HEAD, 304, with a length", b"HEAD / HTTP/1.1", answer=answer(b"304 Not Modified", b"Content-Length: 77\r\n"))
simple("204 with a coding", answer=answer(b"204 No Content", b"Transfer-Encoding: chunked\r\n"))
simple("205 with a body", answer=answer(b"205 Reset Content", b"Content-Length: 3\r\n", b"abc"))
simple(
    "204 with a length",
    answer=answer(b"204 No Content", b"Content-Length: 0\r\n"),
    difference=(but(fields=dropped("content-length")), "a 204 must not name a length (RFC 9110, section 8.6)"),
)
simple(
    "304 with a length",
    answer=answer(b"304 Not Modified", b"Content-Length: 77\r\n"),
    difference=(but(fields=dropped("content-length")), "the HTTP library names none; it is what the visitor has already"),
)
simple(
    "a length and a coding",
    answer=answer(fields=b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", body=b"5\r\nwhole\r\n0\r\n\r\n"),
    difference=(but(fields=dropped("content-length")), "the coding counts, and the length must go (RFC 9112, section 6.3)"),
)
once = lambda fields: [field for at, field in enumerate(fields) if field[0] != "content-length" or field != fields[at - 1]]
simple(
    "the same length twice, asked and answered",
    b"POST / HTTP/1.1",
    b"Content-Length: 3\r\nContent-Length: 3\r\n",
    b"abc",
    answer(fields=b"Content-Length: 2\r\nContent-Length: 2\r\n", body=b"ok"),
    (but(fields=once, asked=of_asked({"fields": once})), "it is said once (RFC 9110, section 8.6)"),
)
simple("an answer of 150 fields", answer=answer(fields=b"".join(b"X-%d: %d\r\n" % (n, n) for n in range(150)) + b"Content-Length: 0\r\n"))
simple("a field of 100 KB in an answer", answer=answer(fields=b"X-Long: %s\r\nContent-Length: 0\r\n" % (b"l" * 100_000)))
simple(
    "an answer of 200 KB of fields",
    answer=answer(fields=b"".join(b"X-%d: %s\r\n" % (n, b"v" * 1000) for n in range(200)) + b"Content-Length: 0\r\n"),
    difference=(lambda seen: "", "the head of an answer has 128 KB at most", "502"),
)
simple("empty values and bytes beyond ASCII in an answer", answer=answer(fields=b"X-E:\r\nX-E: \r\nX-D: a\tb\r\nLocation: /caf\xc3\xa9\r\nSet-Cookie: a=\xe9\xff\r\nContent-Length: 0\r\n"))
simple(
    "a coding other than chunked",
    answer=answer(fields=b"Transfer-Encoding: gzip, chunked\r\n", body=b"3\r\nabc\r\n0\r\n\r\n"),
    difference=(lambda seen: "", "502: nobody has asked for it (RFC 9112, section 7.4), and only `chunked` can be taken off", "502"),
)

# Targets.
simple("target /a|b^c{d}[e]\\'\"?|^{}[]\\'`", b"GET /a|b^c{d}[e]\\'\"?|^{}[]\\'` HTTP/1.1")
simple("a target in UTF-8", b"GET /caf\xc3\xa9?caf\xc3\xa9 HTTP/1.1")
for target in (b"/a<b>", b"/caf\xe9", b'/q?query=up{job="a"}'):
    simple(
        f"target {target.decode('latin-1')}, in raw bytes",
        b"GET %s HTTP/1.1" % target,
        difference=(
            but(asked=of_asked({"first": unquote_to_bytes})),
            "the application gets them percent-encoded, which means the same: no URI has such bytes (RFC 3986, section 2), and the HTTP library accepts none",
            "200",
        ),
    )
simple(
    "a whole URL as the target",
    b"GET http://recorder.tunnel.test/a?b HTTP/1.1",
    difference=(
        but(asked=of_asked({"first": lambda first: first.replace(b"http://recorder.tunnel.test", b"")})),
        "the application gets its path, as whoever is no proxy is asked (RFC 9112, section 3.2.1)",
    ),
)

# Fields that do not cross.
simple(
    "Proxy-Authorization",
    fields=b"Proxy-Authorization: Basic x\r\n",
    difference=(but(asked=of_asked({"fields": dropped("proxy-authorization")})), "it is for the proxy that asked for it (RFC 9110, section 11.7.2)"),
)
simple(
    "Proxy-Authenticate",
    answer=answer(b"407 x", b"Proxy-Authenticate: Basic\r\nContent-Length: 0\r\n"),
    difference=(but(fields=dropped("proxy-authenticate")), "it is for the next client only (RFC 9110, section 11.7.1)"),
)
simple(
    "X_Forwarded_For, and a name like it",
    fields=b"X_Forwarded_For: 6.6.6.6\r\nX_Mine: 1\r\n",
    difference=(but(asked=of_asked({"fields": dropped("x_forwarded_for")})), "CGI and WSGI would take it for X-Forwarded-For, which a visitor cannot say of itself"),
)
TRAILED = b"1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n"
simple(
    "trailers of an answer, for a visitor that has not asked for them",
    answer=answer(fields=b"Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n", body=TRAILED),
    difference=(but(trailers=lambda _: []), "without `TE: trailers` they may be left out (RFC 9110, section 6.5.1), and the HTTP library does; over HTTP/2 they come"),
)
simple(
    "trailers that no Trailer field names, asked and answered",
    b"POST / HTTP/1.1",
    b"TE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n",
    TRAILED,
    answer(fields=b"Transfer-Encoding: chunked\r\n", body=TRAILED),
    (but(trailers=lambda _: [], asked=of_asked({"trailers": lambda _: []})), "over HTTP/1.1 the HTTP library sends those that were named; over HTTP/2 all of them"),
)


@row(GROUP, "the words behind a status", (lambda seen: seen.split()[0], "they mean nothing to a program (RFC 9112, section 4), and HTTP/2 has none: the usual ones are sent", "200 OK"))
def _(way):
    way.recorder.answers["reason"] = answer(b"200 Very Well", b"Content-Length: 0\r\n")
    with way.connect(NAME) as sock:
        sock.sendall(request(way, "reason"))
        return Reader(sock).until(b"\r\n").split(b" ", 1)[1].decode()


@row(GROUP, "a visitor that ends its side after a request", (lambda seen: "", "it is taken to have left, and the application is told at once: nobody can tell one from the other", "nothing"))
def _(way):
    way.recorder.answers["ended"] = OK
    with way.connect(NAME) as sock:
        sock.sendall(request(way, "ended"))
        sock.shutdown(socket.SHUT_WR)
        try:
            return read_answer(Reader(sock))["status"]
        except (EOFError, ConnectionError):
            return "nothing"


# Uploads.
@row(GROUP, "an upload that is refused: the visitor goes on, and hears all the same")
def _(way):
    def refuses(sock, reader):
        reader.until(b"\r\n\r\n")
        sock.sendall(answer(b"413 Content Too Large", b"Connection: close\r\nContent-Length: 2\r\n", b"no"))
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass
        return False

    way.recorder.answers["goes on"] = refuses
    with way.connect(NAME) as sock:
        sock.sendall(request(way, "goes on", b"POST / HTTP/1.1", b"Content-Length: 50000000\r\n"))
        for _ in range(200):
            sock.sendall(b"x" * 100_000)
        sock.shutdown(socket.SHUT_WR)
        seen = read_answer(reader := Reader(sock))
        return {**seen, "rest": reader.to_end()}


@row(GROUP, "uploads in the middle of a pipeline")
def _(way):
    requests = [
        request(way, "between", b"GET /1 HTTP/1.1"),
        request(way, "between", b"POST /2 HTTP/1.1", b"Content-Length: 300000\r\n", b"y" * 300_000),
        request(way, "between", b"POST /3 HTTP/1.1", b"Transfer-Encoding: chunked\r\n", b"5\r\nabcde\r\n0\r\n\r\n"),
        request(way, "between", b"POST /4 HTTP/1.1", b"Content-Length: 0\r\n"),
        request(way, "between", b"GET /5 HTTP/1.1"),
    ]

    def in_order(sock, reader):
        message = read_message(reader)
        way.recorder.record("between", *message)
        path = message[0].split(b" ")[1]
        sock.sendall(answer(fields=b"Content-Length: %d\r\n" % len(path), body=path))
        return True

    return ask(way, "between", b"".join(requests), in_order, requests=len(requests))


@row(GROUP, "Expect: 100-continue, and the application takes its time", (lambda seen: seen[:2], "the agent asks for the body after a second: many applications never do"))
def _(way):
    def slow(sock, reader):
        reader.until(b"\r\n\r\n")
        time.sleep(2)
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        reader.exactly(4)
        sock.sendall(OK)
        return True

    way.recorder.answers["slow"] = slow
    with way.connect(NAME) as sock:
        sock.sendall(request(way, "slow", b"POST / HTTP/1.1", b"Expect: 100-continue\r\nContent-Length: 4\r\n"))
        started, reader = time.monotonic(), Reader(sock)
        first = reader.until(b"\r\n\r\n").decode()
        waited = round(time.monotonic() - started)
        sock.sendall(b"body")
        return first, read_answer(reader)["status"], f"after {waited} s"


# Upgrades.
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nX-A: 1\r\n\r\n"


def upgrade(way, name, application, protocol=b"echo/1", ahead=b""):
    """A visitor's connection that asks for an upgrade; the first answer, and what reads on."""
    way.recorder.answers[name] = application
    sock = way.connect(NAME)
    sock.sendall(request(way, name, fields=b"Connection: Upgrade\r\nUpgrade: %s\r\n" % protocol) + ahead)
    reader = Reader(sock)
    return sock, reader, read_answer(reader)


def end_of(reader):
    """What still comes, and how it ends."""
    try:
        return reader.to_end(), "in order"
    except ConnectionError:
        return reader.buffer, "reset"


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@row(GROUP, "any upgrade: words ahead of the answer and with it, and an end on the visitor's side first")
def _(way):
    def application(sock, reader):
        fields = dict(head_of(reader.until(b"\r\n\r\n"))[1])
        time.sleep(0.05)
        sock.sendall(SWITCH % b"echo/1" + b"welcome")
        heard = reader.to_end()
        sock.sendall(b"to %s, after your end: %s" % (fields["upgrade"], heard))
        return False

    sock, reader, seen = upgrade(way, "any", application, ahead=b"ahead of it, ")
    with sock:
        welcome = reader.exactly(7)
        sock.sendall(b"after it")
        sock.shutdown(socket.SHUT_WR)
        return {**seen, "heard": [welcome, end_of(reader)]}


@row(GROUP, "any upgrade: an end on the application's side first")
def _(way):
    done = threading.Event()

    def application(sock, reader):
        reader.until(b"\r\n\r\n")
        sock.sendall(SWITCH % b"echo/1" + b"all")
        sock.shutdown(socket.SHUT_WR)
        way.recorder.asked["first"] = [end_of(reader)]
        done.set()
        return False

    sock, reader, _ = upgrade(way, "first", application)
    with sock:
        heard = end_of(reader)
        sock.sendall(b"still talking" * 1000)
        sock.shutdown(socket.SHUT_WR)
        done.wait(20)
    return heard, way.recorder.taken("first")


@row(GROUP, "any upgrade: a visitor that breaks off")
def _(way):
    done = threading.Event()

    def application(sock, reader):
        reader.until(b"\r\n\r\n")
        sock.sendall(SWITCH % b"echo/1")
        way.recorder.asked["breaks"] = [end_of(reader)[1]]
        done.set()
        return False

    sock, _, _ = upgrade(way, "breaks", application)
    reset(sock)
    done.wait(20)
    return way.recorder.taken("breaks")


@row(GROUP, "any upgrade: an application that breaks off")
def _(way):
    def application(sock, reader):
        reader.until(b"\r\n\r\n")
        sock.sendall(SWITCH % b"echo/1")
        reader.exactly(1)
        reset(sock)
        return False

    sock, reader, _ = upgrade(way, "broken", application)
    with sock:
        sock.sendall(b"x")
        return end_of(reader)[1]


for name, protocol, said in [
    ("refused", b"echo/1", answer(b"400 Bad Request", b"Content-Length: 2\r\n", b"no")),
    ("not understood", b"echo/1", OK),
    ("one of two", b"foo/2, bar", SWITCH % b"bar"),
]:

    @row(GROUP, f"any upgrade: {name}")
    def _(way, name=name, protocol=protocol, said=said):
        sock, _, seen = upgrade(way, name, said, protocol)
        sock.close()
        return {**seen, "asked": way.recorder.taken(name)}
