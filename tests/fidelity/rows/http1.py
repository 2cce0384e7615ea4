"""HTTP/1.1 against an application whose every byte is written here, and that keeps what it was asked."""

import gzip
import hashlib
import hmac
import socket
import threading

from matrix import row
from wire import Reader, head_of, read_answer, read_message

GROUP = "HTTP/1.1, byte by byte"
NAME = "recorder"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def start(stack):
    stack.offer(NAME, f"127.0.0.1:{stack.recorder.port}")


def ask(way, name, request, answer, requests=1):
    """Sends bytes, and gives what the visitor and the application have seen."""
    way.recorder.answers[name] = answer
    with way.connect(NAME) as sock:
        sock.sendall(request)
        reader = Reader(sock)
        method = request.split(b" ", 1)[0]
        answers = [read_answer(reader, method) for _ in range(requests)]
    seen = dict(answers[0]) if requests == 1 else {"short": f"{requests} answers in order", "answers": answers}
    seen["asked"] = way.recorder.taken(name)
    return seen


def request(way, name, first=b"GET / HTTP/1.1", fields=b"", body=b""):
    return b"%s\r\nHost: %s\r\nX-Row: %s\r\n%s\r\n%s" % (first, way.host(NAME).encode(), name.encode(), fields, body)


def simple(name, first=b"GET / HTTP/1.1", fields=b"", body=b"", answer=OK, difference=None):
    """A row of one request and one answer."""

    @row(GROUP, name, difference)
    def _(way):
        return ask(way, name, request(way, name, first, fields, body), answer)


def answer(status=b"200 OK", fields=b"", body=b""):
    return b"HTTP/1.1 %s\r\n%s\r\n%s" % (status, fields, body)


# What is asked.
for method in (b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"PROPFIND", b"M-SEARCH", b"QUERY"):
    simple(f"{method.decode()} without a body", method + b" / HTTP/1.1")
simple("HEAD with the length of what GET would send", b"HEAD / HTTP/1.1", answer=answer(fields=b"Content-Length: 1234\r\n"))
simple("OPTIONS *", b"OPTIONS * HTTP/1.1")
for target in (b"//a//b", b"/a%2Fb%2f%20c", b"/a/../b/./c", b"/a;b=c;d", b"/?", b"/a?b?c=d&&e", b"/%E2%82%AC?%00", b"/~!$&'()*+,=:@"):
    simple(f"target {target.decode()}", b"GET %s HTTP/1.1" % target)
simple("a query of 30 KB", b"GET /?%s HTTP/1.1" % (b"q" * 30_000))
simple("a field of 30 KB", fields=b"X-Long: %s\r\n" % (b"l" * 30_000))
simple("90 fields", fields=b"".join(b"X-%d: %d\r\n" % (n, n) for n in range(90)))
simple("150 fields", fields=b"".join(b"X-%d: %d\r\n" % (n, n) for n in range(148)))
simple("one name three times, in order", fields=b"X-A: 1\r\nX-B: 2\r\nx-a: 2\r\nX-a: 1\r\n")
simple("values with bytes beyond ASCII", fields=b"X-A: caf\xc3\xa9 \xe9\xff\r\n", answer=answer(fields=b"X-B: \xe4\xf6\r\nContent-Length: 0\r\n"))
simple("empty values, and odd names", fields=b"X-Empty:\r\nX!#$%&'*+.^_`|~9: odd\r\n")
simple("a body with its length", b"POST / HTTP/1.1", b"Content-Length: 5\r\n", b"\x00\xff\r\n\x7f")
simple("an empty body is not an absent one", b"POST / HTTP/1.1", b"Content-Length: 0\r\n")
simple("a body in chunks", b"POST / HTTP/1.1", b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n")
simple("a GET with a body", fields=b"Content-Length: 4\r\n", body=b"body")
simple("a DELETE with a body in chunks", b"DELETE / HTTP/1.1", b"Transfer-Encoding: chunked\r\n", b"4\r\nbody\r\n0\r\n\r\n")
simple(
    "trailers of a request",
    b"POST / HTTP/1.1",
    b"Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n",
    b"1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n",
)
simple("cookies, authorization, referer, agent", fields=b"Cookie: a=1; b=2\r\nAuthorization: Bearer t\r\nReferer: http://x/\r\nUser-Agent: test/1\r\n")
simple("traceparent and tracestate", fields=b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\ntracestate: a=b\r\n")
simple("Accept-Encoding and Range pass", fields=b"Accept-Encoding: br;q=1, gzip\r\nRange: bytes=0-1\r\n")
simple("HTTP/1.0", b"GET / HTTP/1.0", answer=answer(fields=b"Content-Length: 2\r\n", body=b"ok"), difference=(
    lambda seen: {**seen, "asked": [{**one, "first": one["first"].replace(b"HTTP/1.0", b"HTTP/1.1")} for one in seen["asked"]]},
    "the application is asked by HTTP/1.1: the version is each connection's own (RFC 9110, section 2.5)",
))


def without(name):
    """Leaves a field out of what the application was asked."""

    def leave_out(seen):
        asked = [{**one, "fields": [field for field in one["fields"] if field[0] not in name]} for one in seen["asked"]]
        return {**seen, "asked": asked}

    return leave_out


simple(
    "a field named by Connection",
    fields=b"Connection: X-Hop, keep-alive\r\nX-Hop: 1\r\nX-Kept: 2\r\n",
    difference=(without({"x-hop"}), "a field named there is for the next hop only (RFC 9110, section 7.6.1)"),
)
simple(
    "TE: trailers, gzip",
    fields=b"TE: trailers, gzip\r\nConnection: TE\r\n",
    difference=(without({"te"}), "codings of a transfer are each connection's own; `trailers` is passed on (RFC 9110, section 10.1.4)"),
)
simple(
    "X-Forwarded-For of the visitor's own",
    fields=b"X-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n",
    difference=(without({"forwarded"}), "what a visitor says of itself under these names is replaced, unless it is a trusted proxy"),
)

# What is answered.
for status in (b"200 OK", b"201 Created", b"206 Partial Content", b"299 Odd", b"301 Moved Permanently", b"404 Not Found", b"418 I'm a teapot", b"451 x", b"500 Internal Server Error", b"599 Last"):
    simple(f"status {status[:3].decode()}", answer=answer(status, b"Content-Length: 3\r\n", b"abc"))
simple("204 No Content", answer=answer(b"204 No Content", b"X-A: 1\r\n"))
simple("304 with its fields", fields=b'If-None-Match: "x"\r\n', answer=answer(b"304 Not Modified", b'ETag: "x"\r\nCache-Control: max-age=5\r\n'))
simple("an answer in chunks", answer=answer(fields=b"Transfer-Encoding: chunked\r\n", body=b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"))
simple(
    "an empty answer in chunks",
    answer=answer(fields=b"Transfer-Encoding: chunked\r\n", body=b"0\r\n\r\n"),
    difference=(
        lambda seen: {**seen, "framing": "", "fields": [field for field in seen["fields"] if field[0] != "content-length"]},
        "a body that is known to be empty is delimited by its length, 0",
    ),
)
simple("Date and Server as the application has them", answer=answer(fields=b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nServer: odd/0\r\nContent-Length: 0\r\n"))
simple("no Date if the application has none", answer=answer(fields=b"Content-Length: 0\r\n"))
simple("three cookies, in order", answer=answer(fields=b"Set-Cookie: a=1; Path=/\r\nSet-Cookie: b=2; HttpOnly\r\nset-cookie: a=3\r\nContent-Length: 0\r\n"))
simple("Location, relative and absolute", answer=answer(b"302 Found", b"Location: /x/../y?z#f\r\nContent-Length: 0\r\n"))
simple("Content-Encoding gzip, untouched", answer=answer(fields=b"Content-Encoding: gzip\r\nContent-Length: %d\r\n" % len(gzip.compress(b"text", mtime=0)), body=gzip.compress(b"text", mtime=0)))
simple("Alt-Svc, HSTS, CSP", answer=answer(fields=b"Alt-Svc: h3=\":443\"\r\nStrict-Transport-Security: max-age=1\r\nContent-Security-Policy: default-src 'self'\r\nContent-Length: 0\r\n"))
simple("WWW-Authenticate, two of them", answer=answer(b"401 Unauthorized", b"WWW-Authenticate: Basic realm=\"a, b\"\r\nWWW-Authenticate: Bearer\r\nContent-Length: 0\r\n"))
simple("an answer of 60 KB of fields", answer=answer(fields=b"".join(b"X-%d: %s\r\n" % (n, b"v" * 1000) for n in range(60)) + b"Content-Length: 0\r\n"))
simple(
    "trailers of an answer, for a visitor that wants them",
    fields=b"TE: trailers\r\nConnection: TE\r\n",
    answer=answer(fields=b"Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n", body=b"1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n"),
)
simple(
    "an answer that ends with its connection",
    answer=b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
    difference=(lambda seen: {**seen, "framing": ""}, "it comes in chunks, so that a visitor can tell an end from a cut"),
)
simple(
    "103 Early Hints",
    answer=b"HTTP/1.1 103 Early Hints\r\nLink: </s.css>; rel=preload\r\n\r\n" + OK,
    difference=(lambda seen: {**seen, "interim": []}, "the HTTP library can send no interim answers but 100; the final one is the same"),
)


@row(GROUP, "ten requests on one connection, all sent at once")
def _(way):
    requests = b"".join(request(way, "pipelined", b"GET /%d HTTP/1.1" % n) for n in range(10))

    def in_order(sock, reader):
        first, fields, *rest = read_message(reader)
        way.recorder.record("pipelined", first, fields, *rest)
        path = first.split(b" ")[1]
        sock.sendall(answer(fields=b"Content-Length: %d\r\n" % len(path), body=path))
        return True

    return ask(way, "pipelined", requests, in_order, requests=10)


@row(GROUP, "a webhook whose signature is over its exact bytes")
def _(way):
    body, key = b'{"a":  1,\r\n "b":"\xc3\xa9"}\n', b"secret"
    signature = hmac.new(key, body, hashlib.sha256).hexdigest()

    def verify(sock, reader):
        _, fields, _, got, _ = read_message(reader)
        said = dict(fields)["x-hub-signature-256"].decode()
        right = hmac.compare_digest(said, "sha256=" + hmac.new(key, got, hashlib.sha256).hexdigest())
        sock.sendall(answer(b"200 OK" if right else b"401 Unauthorized", b"Content-Length: 0\r\n"))
        return True

    fields = b"Content-Type: application/json\r\nX-Hub-Signature-256: sha256=%s\r\nContent-Length: %d\r\n" % (signature.encode(), len(body))
    return ask(way, "webhook", request(way, "webhook", b"POST /hook HTTP/1.1", fields, body), verify)


def expecting(way, name, application, send_after_100=True):
    """A visitor that waits for 100 before it sends its body; what it has seen, step by step."""
    way.recorder.answers[name] = application
    steps = []
    with way.connect(NAME) as sock:
        sock.sendall(request(way, name, b"POST / HTTP/1.1", b"Expect: 100-continue\r\nContent-Length: 4\r\n"))
        reader = Reader(sock)
        first = reader.until(b"\r\n\r\n")
        steps.append(first.split(b" ")[1])
        if first.startswith(b"HTTP/1.1 100") and send_after_100:
            sock.sendall(b"body")
            steps.append(read_answer(reader)["status"])
    return {"short": " then ".join(str(step) for step in steps), "steps": steps}


@row(GROUP, "Expect: 100-continue, and the application wants the body")
def _(way):
    def wants(sock, reader):
        ahead = reader.until(b"\r\n\r\n")
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        way.recorder.asked["expect"] = [head_of(ahead)[0], reader.exactly(4)]
        sock.sendall(OK)
        return True

    seen = expecting(way, "expect", wants)
    return {**seen, "asked": way.recorder.taken("expect")}


@row(GROUP, "Expect: 100-continue, and the application refuses at once")
def _(way):
    done = threading.Event()

    def refuses(sock, reader):
        reader.until(b"\r\n\r\n")
        sock.sendall(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        # Not one byte of the body may come.
        way.recorder.asked["refused"] = [reader.to_end()]
        done.set()
        return False

    seen = expecting(way, "refused", refuses)
    done.wait(20)
    return {**seen, "asked": way.recorder.taken("refused")}


@row(GROUP, "an answer before the upload has ended")
def _(way):
    def early(sock, reader):
        reader.until(b"\r\n\r\n")
        sock.sendall(answer(b"401 Unauthorized", b"Content-Length: 2\r\n", b"no"))
        return False

    way.recorder.answers["early"] = early
    with way.connect(NAME) as sock:
        sock.sendall(request(way, "early", b"POST / HTTP/1.1", b"Content-Length: 100000000\r\n", b"some"))
        return read_answer(Reader(sock))


@row(GROUP, "both ways at once: each chunk is answered before the next is sent")
def _(way):
    def echo(sock, reader):
        reader.until(b"\r\n\r\n")
        sock.sendall(answer(fields=b"Transfer-Encoding: chunked\r\n"))
        while size := int(reader.until(b"\r\n"), 16):
            piece = reader.exactly(size)
            reader.exactly(2)
            sock.sendall(b"%x\r\n%s\r\n" % (size, piece.upper()))
        sock.sendall(b"0\r\n\r\n")
        return False

    way.recorder.answers["duplex"] = echo
    heard = []
    with way.connect(NAME) as sock:
        sock.sendall(request(way, "duplex", b"POST / HTTP/1.1", b"Transfer-Encoding: chunked\r\n"))
        reader = Reader(sock)
        for word in (b"one", b"two", b"three"):
            sock.sendall(b"%x\r\n%s\r\n" % (len(word), word))
            if not heard:
                reader.until(b"\r\n\r\n")
            heard.append(reader.exactly(int(reader.until(b"\r\n"), 16)))
            reader.exactly(2)
        sock.sendall(b"0\r\n\r\n")
        heard.append(reader.until(b"\r\n"))
    return {"short": b" ".join(heard).decode(), "heard": heard}


@row(GROUP, "an answer that breaks off is not shown as whole")
def _(way):
    def breaks(sock, reader):
        read_message(reader)
        sock.sendall(answer(fields=b"Content-Length: 100\r\n", body=b"half of it"))
        return False

    way.recorder.answers["broken"] = breaks
    with way.connect(NAME) as sock:
        sock.sendall(request(way, "broken"))
        try:
            read_answer(Reader(sock))
            return "shown as whole"
        except (EOFError, ConnectionError):
            return "seen as cut"
