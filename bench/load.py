"""The visitors that wrk is not: `python3 bench/load.py KIND ADDRESS PORT HOST [...]`, one JSON line at the end.

A process of its own, so that it can run in a network namespace and so that one load never holds up the clock of another.
Loads that go on until they are told print `ready` first and stop when their standard input ends.
"""

import argparse
import base64
import json
import os
import socket
import statistics
import sys
import threading
import time

PIECE = 256 * 1024
DEADLINE = 30.0
HELLO = b"x" * 100


class Visitor:
    """A connection, and HTTP/1.1 as far as the measures need it."""

    def __init__(self, to, timeout=DEADLINE):
        self.host = to.host.encode()
        self.sock = socket.create_connection((to.address, to.port), timeout=timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.begun = b""

    def ask(self, method, path, *fields):
        lines = [b"%s %s HTTP/1.1" % (method, path.encode()), b"Host: %s" % self.host, *fields]
        self.sock.sendall(b"\r\n".join(lines) + b"\r\n\r\n")

    def head(self):
        """Status, and length of the body that follows; what came of the body already is in `begun`."""
        while b"\r\n\r\n" not in self.begun:
            data = self.sock.recv(65536)
            if not data:
                raise SystemExit("the connection has ended before an answer")
            self.begun += data
        head, _, self.begun = self.begun.partition(b"\r\n\r\n")
        length = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        return int(head.split(b" ", 2)[1]), int(length[0]) if length else 0

    def body(self):
        """The whole answer to a small request, which must be good."""
        status, length = self.head()
        while len(self.begun) < length:
            data = self.sock.recv(65536)
            if not data:
                raise SystemExit(f"the answer was cut at {len(self.begun)} of {length} bytes")
            self.begun += data
        body, self.begun = self.begun[:length], self.begun[length:]
        if status != 200:
            raise SystemExit(f"answered with {status}: {body[:200]!r}")
        return body


def quantiles(times):
    """Median and 99th percentile in milliseconds, and how many there were."""
    cuts = statistics.quantiles(times, n=100, method="inclusive") if len(times) > 1 else times * 99
    return {"p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3, "count": len(times)}


def wait_to_be_told():
    print("ready", flush=True)
    sys.stdin.buffer.read()


def check(to):
    """A GET and a POST, byte for byte."""
    visitor = Visitor(to, 5)
    visitor.ask(b"GET", "/100")
    if (body := visitor.body()) != HELLO:
        raise SystemExit(f"GET /100 gave {body[:200]!r}")
    to.port, to.host = to.app_port, to.app_host
    visitor = Visitor(to, 5)
    visitor.ask(b"POST", "/sink", b"Content-Length: 100000")
    visitor.sock.sendall(bytes(100_000))
    if (body := visitor.body()) != b"100000":
        raise SystemExit(f"POST /sink gave {body[:200]!r}")
    return {}


def side_by_side(count, work):
    """Runs it in so many threads; the seconds that all of them took, and what they gave."""
    given, threads = [], []
    begin = time.monotonic()
    for _ in range(count):
        threads.append(threading.Thread(target=lambda: given.append(work()), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join()
    if len(given) != count:
        raise SystemExit(f"{count - len(given)} of {count} have failed")
    return {"seconds": time.monotonic() - begin, "bytes": sum(given)}


def download(to):
    def one():
        visitor = Visitor(to)
        visitor.ask(b"GET", to.path)
        status, length = visitor.head()
        got, room = len(visitor.begun), bytearray(PIECE)
        while got < length:
            count = visitor.sock.recv_into(room)
            if not count:
                break
            got += count
        if status != 200 or not length or got != length:
            raise SystemExit(f"{status}, {got} of {length} bytes")
        return got

    return side_by_side(to.parallel, one)


def upload(to):
    def one():
        visitor = Visitor(to)
        visitor.ask(b"PUT", "/sink", b"Content-Length: %d" % to.size)
        with open(to.file, "rb") as source:
            sent = visitor.sock.sendfile(source, 0, to.size)
        if sent != to.size or visitor.body() != b"%d" % to.size:
            raise SystemExit("the application did not get all of it")
        return sent

    return side_by_side(to.parallel, one)


def stream(to):
    """Downloads for some seconds, or until it is told; the rate without the first `skip` seconds."""
    told = threading.Event()
    if not to.seconds:
        threading.Thread(target=lambda: (sys.stdin.buffer.read(), told.set()), daemon=True).start()
    room, got, ready = bytearray(PIECE), 0, False
    begin = counted_from = time.monotonic()
    end = begin + (to.seconds or 120)
    while not told.is_set() and time.monotonic() < end:
        visitor = Visitor(to)
        visitor.ask(b"GET", to.path)
        status, left = visitor.head()
        if status != 200:
            raise SystemExit(f"answered with {status}")
        left -= len(visitor.begun)
        while left > 0 and not told.is_set() and (now := time.monotonic()) < end:
            count = visitor.sock.recv_into(room)
            if not count:
                raise SystemExit("the download was cut")
            left -= count
            if now - begin < to.skip:
                counted_from = now
            else:
                got += count
            if not ready and not to.seconds and now - begin >= to.skip:
                ready = True
                print("ready", flush=True)
    return {"seconds": time.monotonic() - counted_from, "bytes": got}


def crowd(to):
    """So many downloads side by side that never end, until it is told; `skip` seconds pass before it is ready."""
    visitors = []
    for _ in range(to.parallel):
        visitors.append(Visitor(to, to.patience))
        visitors[-1].ask(b"GET", to.path)
    got = [0] * to.parallel

    def read(at):
        room = bytearray(PIECE)
        while count := visitors[at].sock.recv_into(room):
            got[at] += count

    for at in range(to.parallel):
        threading.Thread(target=read, args=(at,), daemon=True).start()
    time.sleep(to.skip)
    begin, before = time.monotonic(), sum(got)
    wait_to_be_told()
    return {"seconds": time.monotonic() - begin, "bytes": sum(got) - before, "started": sum(1 for count in got if count)}


def stall(to):
    """A reader that has stopped in the middle of a download."""
    visitor = Visitor(to)
    visitor.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    visitor.ask(b"GET", to.path)
    visitor.head()
    # What can pile up on the way should have done so.
    time.sleep(0.5)
    wait_to_be_told()
    return {}


def pings(to):
    """Small requests one at a time on one connection."""
    visitor, times = Visitor(to, to.patience), []
    end = time.monotonic() + to.seconds
    while (begin := time.monotonic()) < end:
        visitor.ask(b"GET", "/100")
        visitor.body()
        times.append(time.monotonic() - begin)
    return quantiles(times)


def counted(to):
    """So many requests, shared by some visitors who ask one after the other."""
    def one():
        visitor = Visitor(to)
        for _ in range(to.count // to.parallel):
            visitor.ask(b"GET", to.path)
            visitor.body()
        return to.count // to.parallel

    return side_by_side(to.parallel, one)


def patient_pings(to):
    """Small requests one at a time until it is told, whatever comes between: how long the good ones took, how many were
    not, and how long after the first question a good answer came."""
    told = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), told.set()), daemon=True).start()
    print("ready", flush=True)
    times, failures, first, visitor, start = [], 0, None, None, time.monotonic()
    while not told.is_set() and time.monotonic() - start < 600:
        begin = time.monotonic()
        try:
            visitor = visitor or Visitor(to)
            visitor.ask(b"GET", "/100")
            visitor.body()
        except (OSError, SystemExit):
            failures, visitor = failures + 1, None
            time.sleep(0.01)
            continue
        times.append(time.monotonic() - begin)
        first = first if first is not None else time.monotonic() - start
    return {**quantiles(times), "failures": failures, "first": first}


def fresh(to):
    """The time from dialling to the first byte of the answer, one connection after the other."""
    times = []
    end = time.monotonic() + to.seconds
    while (begin := time.monotonic()) < end:
        visitor = Visitor(to, to.patience)
        visitor.ask(b"GET", "/100", b"Connection: close")
        visitor.begun = visitor.sock.recv(65536)
        times.append(time.monotonic() - begin)
        visitor.body()
        visitor.sock.close()
    return quantiles(times)


def open_websocket(to):
    visitor = Visitor(to)
    key = base64.b64encode(os.urandom(16))
    fields = (b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: " + key)
    visitor.ask(b"GET", "/echo", *fields)
    if (status := visitor.head()[0]) != 101:
        raise SystemExit(f"a WebSocket was answered with {status}")
    return visitor


def websocket(to):
    """Messages of 64 bytes, one at a time, to the echo and back."""
    visitor, times = open_websocket(to), []
    # Masked with zeros (RFC 6455, section 5.3): what is echoed is what was sent.
    message = bytes((0x82, 0x80 | 64, 0, 0, 0, 0)) + b"x" * 64
    end = time.monotonic() + to.seconds
    while (begin := time.monotonic()) < end:
        visitor.sock.sendall(message)
        got = 0
        while got < 66:
            data = visitor.sock.recv(66 - got)
            if not data:
                raise SystemExit("the WebSocket has ended")
            got += len(data)
        times.append(time.monotonic() - begin)
    return quantiles(times)


def hold(to):
    """Opens so many WebSockets or waiting requests, and keeps them."""
    held = []
    for _ in range(to.count):
        if to.what == "websocket":
            held.append(open_websocket(to))
        else:
            held.append(Visitor(to))
            held[-1].ask(b"GET", "/wait")
    time.sleep(0.5)
    wait_to_be_told()
    return {"count": len(held)}


KINDS = (check, download, upload, stream, crowd, stall, pings, counted, patient_pings, fresh, websocket, hold)


def main():
    parser = argparse.ArgumentParser(prog="load", description=__doc__)
    parser.add_argument("kind", choices=[kind.__name__ for kind in KINDS])
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("host")
    parser.add_argument("--app-port", type=int)
    parser.add_argument("--app-host")
    parser.add_argument("--path", default="/bulk")
    parser.add_argument("--file")
    parser.add_argument("--what", choices=["websocket", "wait"])
    for name, start in (("parallel", 1), ("size", 0), ("count", 0)):
        parser.add_argument(f"--{name}", type=int, default=start)
    parser.add_argument("--patience", type=float, default=DEADLINE)
    for name in ("seconds", "skip"):
        parser.add_argument(f"--{name}", type=float, default=0)
    to = parser.parse_args()
    print(json.dumps(next(kind for kind in KINDS if kind.__name__ == to.kind)(to)))


if __name__ == "__main__":
    main()
