"""HTTP/1.1, byte by byte: a visitor that says exactly what it is told, and an application that keeps a record."""

import socket
import threading

# Fields of one connection, and what a proxy adds: see docs/fidelity.md.
OF_A_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "proxy-connection", "upgrade"}
ADDED = {"x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "x-request-id"}


class Reader:
    """Reads a connection piece by piece."""

    def __init__(self, sock):
        self.sock, self.buffer = sock, b""

    def more(self):
        piece = self.sock.recv(65536)
        if not piece:
            raise EOFError(f"the connection ended after {self.buffer[:200]!r}")
        self.buffer += piece

    def until(self, end):
        while end not in self.buffer:
            self.more()
        before, _, self.buffer = self.buffer.partition(end)
        return before

    def exactly(self, length):
        while len(self.buffer) < length:
            self.more()
        taken, self.buffer = self.buffer[:length], self.buffer[length:]
        return taken

    def to_end(self):
        try:
            while True:
                self.more()
        except EOFError:
            taken, self.buffer = self.buffer, b""
            return taken


def head_of(text):
    """The first line, and the fields in their order."""
    first, *lines = text.split(b"\r\n")
    fields = []
    for line in lines:
        name, _, value = line.partition(b":")
        fields.append((name.decode("latin-1").lower(), value.strip(b" \t")))
    return first, fields


def value_of(fields, name):
    return next((value for field, value in fields if field == name), None)


def normal(fields, without=frozenset()):
    """Fields by name; the order of one name's values is kept."""
    kept = [(name, value) for name, value in fields if name not in OF_A_CONNECTION and name not in without]
    return sorted(kept, key=lambda field: field[0])


def read_chunks(reader):
    body = b""
    while True:
        size = int(reader.until(b"\r\n").split(b";")[0], 16)
        if size == 0:
            break
        body += reader.exactly(size)
        reader.exactly(2)
    trailers = []
    while line := reader.until(b"\r\n"):
        trailers += head_of(b"\r\n" + line)[1]
    return body, sorted(trailers)


def read_message(reader, has_body=True, until_close=False):
    """Fields, framing, body and trailers of one message whose head is next."""
    first, fields = head_of(reader.until(b"\r\n\r\n"))
    length, coding = value_of(fields, "content-length"), value_of(fields, "transfer-encoding")
    body, trailers, framing = b"", [], "none"
    if has_body and coding:
        framing = "chunked"
        body, trailers = read_chunks(reader)
    elif has_body and length is not None:
        framing = "length"
        body = reader.exactly(int(length))
    elif has_body and until_close:
        framing = "close"
        body = reader.to_end()
    return first, fields, framing, body, trailers


def read_answer(reader, method=b"GET"):
    """An answer as a visitor sees it, interim ones included."""
    interim = []
    while True:
        ahead = reader.until(b"\r\n\r\n")
        status = int(ahead.split(b" ", 2)[1])
        reader.buffer = ahead + b"\r\n\r\n" + reader.buffer
        has_body = method != b"HEAD" and status not in (204, 304) and status >= 200
        first, fields, framing, body, trailers = read_message(reader, has_body, until_close=True)
        if 100 <= status < 200 and status != 101:
            interim.append(status)
            continue
        return {
            "short": f"{status}, {len(body)} bytes",
            "interim": interim,
            "status": status,
            "fields": normal(fields),
            "framing": framing,
            "body": body,
            "trailers": trailers,
        }


class Recorder:
    """An application whose every answer is written beforehand: by the name in `X-Row`. It keeps what it was asked."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.answers, self.asked = {}, {}
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            sock, _ = self.listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        reader = Reader(sock)
        try:
            while True:
                ahead = reader.until(b"\r\n\r\n")
                name = value_of(head_of(ahead)[1], "x-row").decode()
                reader.buffer = ahead + b"\r\n\r\n" + reader.buffer
                answer = self.answers[name]
                if callable(answer):
                    keep = answer(sock, reader)
                else:
                    self.record(name, *read_message(reader))
                    sock.sendall(answer)
                    keep = b"connection: close" not in answer.lower() and not answer.startswith(b"HTTP/1.0")
                if not keep:
                    break
        except (EOFError, OSError):
            pass
        finally:
            sock.close()

    def record(self, name, first, fields, framing, body, trailers):
        self.asked.setdefault(name, []).append(
            {"first": first, "fields": normal(fields, ADDED), "framing": framing, "body": body, "trailers": trailers}
        )

    def taken(self, name):
        return self.asked.pop(name, [])
