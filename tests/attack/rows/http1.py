"""Visitors over HTTP/1.1."""

import os
import time

from attacks import Crowd, Seen, addresses, attack, connect, crowd, in_words, request, try_send
from target import HEAD, IDLE


@attack("heads that come byte by byte (slowloris)", "cut when `timeouts.head` is over")
def slowloris(target):
    many = crowd(target.http, 250, first=b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    started = time.monotonic()
    while many.open and time.monotonic() - started < HEAD + 3:
        many.send(b"a")
        many.listen(0.25)
    took = time.monotonic() - started
    left = len(many.open)
    many.leave()
    seen = Seen("250 connections, a byte each 0.25 s", f"{250 - left} closed within {took:.1f} s, {left} open")
    return seen.insist(not left, "some were not closed")


@attack(
    "bodies that come byte by byte, or stop",
    "those that stop get 408 after `timeouts.idle`; the others hold their own address's places only",
)
def slow_bodies(target):
    first = request(target.host("loud"), "/", "POST", "Content-Length: 1000000\r\n") + b"x"
    slow, stopped = crowd(target.http, 200, first=first), crowd(target.http, 50, first=first)
    started = time.monotonic()
    while time.monotonic() - started < IDLE + 2:
        slow.send(b"x")
        slow.listen(0.1)
        stopped.listen(0.4)
    answers = in_words(stopped.answers())
    seen = Seen("200 that go on, 50 that stop", f"stopped: {answers}; {len(slow.open)} of the slow are still served")
    seen.insist(stopped.answers() == {408: 50}, "not all that stopped got 408")
    slow.leave()
    stopped.leave()
    return seen


@attack(
    "bodies that the application does not read",
    "they wait with the visitor: a window of each, half a MiB, is in memory",
    server=128, agent=192,
)
def unread(target):
    first = request(target.host("loud"), "/unread", "POST", "Content-Length: 100000000\r\n")
    many = crowd(target.http, 200, first=first)
    piece, sent = bytes(256 * 1024), 0
    started = time.monotonic()
    while time.monotonic() - started < 4:
        for connection in list(many.open.values()):
            try:
                sent += connection.send(piece)
            except OSError:
                pass
        many.listen(0.05)
    many.leave()
    return Seen("200 bodies of 100 MB", f"{sent / 200 / 1024:.0f} KiB each were taken, the rest had to wait")


@attack(
    "answers of a gigabyte that are not read",
    "cut after `timeouts.idle`; at the server waits a window of each, 50 MiB in all, and 16 MiB by which the windows of a "
    "session grow; a MiB of each at the agent at most",
    server=80, agent=256,
)
def unread_answers(target):
    many = crowd(target.http, 200, first=request(target.host("loud"), "/big"))
    time.sleep(IDLE + 2.5)
    # What is in the kernel still comes; then the end.
    many.listen(15)
    left = len(many.open)
    many.leave()
    return Seen("200 connections", f"{200 - left} cut, {left} open").insist(not left, "some were not cut")


@attack(
    "connections that rest, one address",
    "256 are held, the rest is closed at once; given back after `timeouts.keep_alive`",
)
def resting(target):
    many = crowd(target.http, 2000).listen(0.5)
    held = len(many.open)
    many.leave()
    return Seen("2,000 connections", f"{held} held, {2000 - held} closed at once").insist(held <= 256, "more than 256 were held")


@attack(
    "requests without a pause, one address",
    "slowed down to 100 a second beyond 300 at once; 429 with `Retry-After` and `RateLimit` where they come faster",
    settings=("limits.per_ip.requests_per_second=100", "limits.per_ip.burst=300"),
)
def flood(target):
    counts, hints, started = {}, set(), time.monotonic()
    one = request(target.host("loud"))
    while time.monotonic() - started < 4:
        # Requests of one connection wait for each other. So many connections that some are refused.
        connections, heard = [connect(target.http) for _ in range(150)], b""
        for connection in connections:
            connection.settimeout(5)
            try:
                connection.sendall(one * 5)
                connection.shutdown(1)
            except OSError:
                pass
        for connection in connections:
            try:
                while piece := connection.recv(1 << 18):
                    heard += piece
            except OSError:
                pass
            connection.close()
        for answer in heard.split(b"HTTP/1.1 ")[1:]:
            status = int(answer[:3])
            counts[status] = counts.get(status, 0) + 1
            if status == 429:
                names = (line.split(b":")[0].lower() for line in answer.split(b"\r\n"))
                hints.add(tuple(sorted(name.decode() for name in names if name in (b"retry-after", b"ratelimit", b"ratelimit-policy"))))
    took = time.monotonic() - started
    tried = sum(counts.values())
    seen = Seen(f"{tried:,} requests in {took:.0f} s", in_words(counts))
    seen.insist(counts.get(200, 0) <= 300 + 100 * (took + 1), "more than its rate were served")
    return seen.insist(hints == {("ratelimit", "ratelimit-policy", "retry-after")}, f"the fields of a 429: {hints}")


@attack("heads that are too large", "431, and closed", server=32)
def large_heads(target):
    many = Crowd()
    for number in range(100):
        connection = many.add(connect(target.http, addresses(10)[number % 10]))
        try_send(connection, b"GET / HTTP/1.1\r\nHost: x\r\nX-Large: ")
        for _ in range(16):
            many.listen(0.005)
            try_send(connection, b"a" * 65536)
    many.listen(3)
    answers, left = many.answers(), len(many.open)
    many.leave()
    seen = Seen("100 heads of a megabyte", f"{in_words(answers)}; {left} open")
    return seen.insist(answers == {431: 100}, "another answer than 431")


@attack("heads of many fields", "431, and closed", server=32)
def many_fields(target):
    fields = "".join(f"X-{number}: y\r\n" for number in range(2000))
    many = crowd(target.http, 200, addresses(10), request(target.host("loud"), fields=fields))
    many.listen(3, lambda: all(many.heard.values()))
    answers = many.answers()
    many.leave()
    return Seen("200 heads of 2,000 fields", in_words(answers)).insist(answers == {431: 200}, "another answer than 431")


@attack("no HTTP at all", "400 or closed")
def garbage(target):
    many = Crowd()
    for number in range(500):
        try_send(many.add(connect(target.http, addresses(20)[number % 20])), os.urandom(512) + b"\r\n\r\n")
    many.listen(HEAD + 2)
    answers, left = many.answers(), len(many.open)
    many.leave()
    seen = Seen("500 connections", f"{in_words(answers)}; {left} open")
    return seen.insist(not set(answers) - {0, 400}, "another answer").insist(not left, "some were not closed")
