"""Attackers that want all there is of something."""

import time

from attacks import Seen, addresses, attack, connect, crowd
from http2 import END_HEADERS, END_STREAM, HEADERS, Attacker, frame, head
from target import HEAD, PROXY


@attack(
    "all connections of the server, from 20 addresses",
    "when half are taken, an address gets a sixteenth of what is left; others find some",
    settings=("limits.connections=1000",),
)
def all_connections(target):
    many = crowd(target.http, 5000, addresses(20)).listen(0.5)
    held = len(many.open)
    # They come back as often as they are closed.
    started = time.monotonic()
    while time.monotonic() - started < 3:
        more = crowd(target.http, 50, addresses(20))
        more.listen(0.05)
        many.listen(0.05)
        more.leave()
    many.leave()
    seen = Seen("5,000 connections to a server that has 1,000", f"{held} held, the rest closed at once")
    return seen.insist(held < 900, "nearly all were held")


@attack(
    "all requests of a tenant, and of the server, from 4 addresses",
    "429 beyond 1,024 of an address; the neighbour is served",
    settings=("limits.streams=1500", "limits.per_ip.burst=3000"), server=128, agent=128,
)
def all_requests(target):
    fields, attackers = head(target.host("loud"), b"/never"), []
    for source in addresses(4):
        for _ in range(4):
            attacker = Attacker(target.http, source)
            attacker.send(b"".join(frame(HEADERS, END_HEADERS | END_STREAM, stream, fields) for stream in range(1, 512, 2)))
            attackers.append(attacker)
    end = time.monotonic() + 4
    while time.monotonic() < end:
        for attacker in attackers:
            attacker.listen(0.02)
    refused = sum(len(attacker.statuses) for attacker in attackers)
    for attacker in attackers:
        attacker.close()
    seen = Seen("4,096 requests to a server that has 1,500", f"{4096 - refused} wait for their answer, {refused} refused")
    return seen.insist(4096 - refused < 1400, "nearly all places were taken")


@attack(
    "all file descriptors of the server",
    "it keeps some for itself, does not spin, and takes others in",
    files=256, cpu=0.5,
)
def all_files(target):
    ports = (target.http, target.https, target.tunnel, target.admin)
    crowds = [crowd(port, 400, addresses(20)).listen(0.2) for port in ports]
    held = [len(many.open) for many in crowds]
    time.sleep(HEAD + 1)
    for many in crowds:
        many.leave()
    words = "{} at http, {} at https, {} at the tunnel, {} at the admin port held".format(*held)
    return Seen("1,600 connections to a server that may open 256 files", words)


@attack(
    "requests in 101,000 names of visitors",
    "100,000 are remembered, the rest shares one allowance",
    settings=("limits.per_ip.requests_per_second=200", "limits.per_ip.burst=200"),
    server=64, seconds=40,
)
def many_visitors(target):
    """A proxy that is trusted brings as many visitors as it likes: nobody else can, on one machine."""
    counts, rest = {b"404": 0, b"429": 0}, b""
    connection = connect(target.http, PROXY)
    for block in range(101):
        started = time.monotonic()
        one = b"GET / HTTP/1.1\r\nHost: nobody.attack.test\r\nX-Forwarded-For: 2001:db8:%x:%x::1\r\n\r\n"
        connection.sendall(b"".join(one % (block, number) for number in range(1000)))
        while sum(counts.values()) < 1000 * (block + 1):
            piece = connection.recv(1 << 18)
            if not piece:
                return Seen("", "", ["the connection ended"])
            text = rest + piece
            for status in counts:
                counts[status] += text.count(b"HTTP/1.1 " + status)
            # What may be the beginning of a status line, and not all of one.
            rest = text[-11:]
    connection.close()
    # Requests of one connection are not refused, but wait for each other.
    took = time.monotonic() - started
    seen = Seen("101,000 requests, each of another IPv6 network", f"the last 1,000 took {took:.0f} s")
    return seen.insist(took > 3, "strangers beyond the memory have an allowance each")
