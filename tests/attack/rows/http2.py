"""Visitors over HTTP/2, frame by frame."""

import time

from attacks import Seen, addresses, attack
from http2 import (
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW_SIZE, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    Attacker, frame, head, literal, number,
)
from target import HEAD, IDLE, Gauge

# All the window that a connection may have.
WIDE = frame(WINDOW_UPDATE, 0, 0, bytes((0x3F, 0xFF, 0xFF, 0xFF)))

# Settings that the server has to acknowledge: so many streams at once.
ONE_SETTING = frame(SETTINGS, 0, 0, bytes((0, 3, 0, 0, 0, 100)))


def sent_until_closed(attacker, pieces, seconds=5):
    """How many of the pieces went out before the server closed the connection, or the time was over."""
    sent, end = 0, time.monotonic() + seconds
    for piece in pieces:
        if time.monotonic() > end or not attacker.send(piece):
            break
        sent += 1
    attacker.listen_on(0.5)
    return sent


@attack("rapid reset (CVE-2023-44487)", "the connection is ended, or each is refused because its address asks too fast")
def rapid_reset(target):
    opened, ends = 0, {}
    fields = head(target.host("loud"), b"/never")
    started = time.monotonic()
    while time.monotonic() - started < 4:
        attacker = Attacker(target.http)
        pairs = (
            frame(HEADERS, END_HEADERS | END_STREAM, stream, fields) + frame(RST_STREAM, 0, stream, bytes((0, 0, 0, 8)))
            for stream in range(1, 20001, 2)
        )
        opened += sent_until_closed(attacker, (b"".join(part) for part in zip(*[pairs] * 10)), 2) * 10
        end = "all refused" if attacker.end() == "still open" else attacker.end()
        ends[end] = ends.get(end, 0) + 1
        attacker.close()
    words = ", ".join(f"{count} × {end}" for end, count in ends.items())
    return Seen(f"{opened:,} requests on {sum(ends.values()):,} connections, each reset at once", words)


@attack("endless CONTINUATION (CVE-2024-27316)", "the connection is ended", server=16)
def continuation(target):
    ends = {}
    for _ in range(10):
        attacker = Attacker(target.http)
        attacker.send(frame(HEADERS, END_STREAM, 1, head(target.host("loud"))))
        piece = frame(CONTINUATION, 0, 1, literal(b"x-more", b"y" * 16000))
        sent_until_closed(attacker, [piece] * 2000, 3)
        ends[attacker.end()] = ends.get(attacker.end(), 0) + 1
        attacker.close()
    words = ", ".join(f"{count} × {end}" for end, count in ends.items())
    seen = Seen("10 heads of 32 MB", words)
    return seen.insist("still open" not in ends, "it was not ended")


@attack("CONTINUATION frames with nothing in them", "the connection is ended", server=16)
def empty_continuation(target):
    attacker = Attacker(target.http)
    attacker.send(frame(HEADERS, END_STREAM, 1, head(target.host("loud"))))
    sent = sent_until_closed(attacker, [frame(CONTINUATION, 0, 1) * 100] * 5000, HEAD + 3)
    attacker.listen_on(HEAD + 1)
    seen = Seen(f"{sent * 100:,} frames could be sent", attacker.end())
    attacker.close()
    return seen.insist(seen.happened != "still open", "it was not ended")


@attack(
    "PING without a pause",
    "each costs an answer; nothing piles up, and a connection without requests ends",
    server=16,
)
def pings(target):
    return without_a_pause(target, frame(PING, 0, 0, bytes(8)))


@attack(
    "PING without a pause, and the answers are not read",
    "nothing piles up: the connection stands still and is ended",
    server=16,
)
def unread_pings(target):
    return unread_answers(target, frame(PING, 0, 0, bytes(8)) * 1000)


@attack(
    "SETTINGS without a pause, and the answers are not read",
    "nothing piles up: the connection stands still and is ended",
    server=16,
)
def unread_settings(target):
    return unread_answers(target, ONE_SETTING * 1000)


def unread_answers(target, piece):
    attackers = [Attacker(target.http) for _ in range(10)]
    sent, started = 0, time.monotonic()
    ended = set()
    while time.monotonic() - started < IDLE + 4 and len(ended) < len(attackers):
        for attacker in attackers:
            attacker.socket.setblocking(False)
            try:
                sent += attacker.socket.send(piece)
            except BlockingIOError:
                pass
            except OSError:
                ended.add(attacker)
        time.sleep(0.01)
    took = time.monotonic() - started
    for attacker in attackers:
        attacker.close()
    seen = Seen(f"10 connections, {sent / 1024 / 1024:.1f} MiB", f"{len(ended)} ended within {took:.0f} s")
    return seen.insist(len(ended) == len(attackers), "some were not ended")


@attack("SETTINGS without a pause", "each costs an answer; a connection without requests ends", server=16)
def settings(target):
    return without_a_pause(target, ONE_SETTING)


def without_a_pause(target, piece):
    attacker = Attacker(target.http)
    sent = sent_until_closed(attacker, [piece * 100] * 20000, 4)
    seen = Seen(f"{sent * 100:,}", f"{attacker.acknowledged:,} answered, {attacker.end()}")
    attacker.close()
    return seen


@attack(
    "HPACK bomb: heads of 58 KB in 50 bytes each, whose requests wait for their application",
    "503 (`heads_busy`) beyond the parts of address and client; small heads are served",
    # The rate of an address must not be what refuses them.
    settings=("limits.per_ip.burst=3000",),
    server=48,
    agent=48,
)
def waiting_heads(target):
    plant = head(target.host("loud"), b"/") + literal(b"x-bomb", b"b" * 3900, indexed=True)
    use = head(target.host("loud"), b"/never") + number(0x80, 7, 62) * 15
    gauge = Gauge(target.server)
    before, sent = gauge.memory()[0], 0
    attackers = [Attacker(target.http, source) for source in addresses(16)]
    for attacker in attackers:
        attacker.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, plant))
        heads = b"".join(frame(HEADERS, END_HEADERS | END_STREAM, stream, use) for stream in range(3, 503, 2))
        attacker.send(heads)
        sent += len(heads)
    for attacker in attackers:
        # All of them within `timeouts.keep_alive`: a connection without requests is closed after that.
        attacker.listen_on(0.2)
    grown = (gauge.memory()[1] - before) * 1024 * 1024
    refused = sum(status == -1 for attacker in attackers for status in attacker.statuses.values())
    for attacker in attackers:
        attacker.send(frame(HEADERS, END_HEADERS | END_STREAM, 503, head(target.host("loud"))))
        attacker.listen_on(5, lambda: 503 in attacker.statuses)
    served = sum(attacker.statuses.get(503) == 200 for attacker in attackers)
    for attacker in attackers:
        attacker.close()
    seen = Seen(
        f"{16 * 250:,} requests from 16 addresses, {sent / 1024:.0f} KiB",
        f"{refused:,} refused; {grown / sent:.0f} bytes of memory for each byte sent; {served} small ones served",
    )
    seen.insist(refused > 3000, "too few were refused")
    return seen.insist(served == len(attackers), "small heads were not served")


@attack(
    "HPACK bomb: one large field, a thousand times in each head",
    "431, or the connection is ended; the head is never that large in memory",
    server=16,
)
def hpack_bomb(target):
    attacker = Attacker(target.http)
    # 4,000 bytes in the table, then a byte for each use of them.
    plant = head(target.host("loud")) + literal(b"x-bomb", b"b" * 3900, indexed=True)
    attacker.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, plant))
    use = head(target.host("loud")) + number(0x80, 7, 62) * 10000
    heads = (frame(HEADERS, END_HEADERS | END_STREAM, stream, use) for stream in range(3, 801, 2))
    sent = sent_until_closed(attacker, heads, 4)
    attacker.listen_on(2, lambda: len(attacker.statuses) + len(attacker.resets) > sent)
    served = sum(status == 200 for stream, status in attacker.statuses.items() if stream > 1)
    refused = len(attacker.statuses) - served
    words = f"{refused} refused, {len(attacker.resets)} reset, {attacker.end()}"
    seen = Seen(f"{sent} heads of 39 MB each, 10 KB on the wire", words)
    attacker.close()
    return seen.insist(not served, f"{served} were served")


@attack("a table of 16 MiB for answers", "the server's encoder does not grow with it", server=16)
def large_table(target):
    attackers = [Attacker(target.http, source, [(1, 1 << 24)]) for source in addresses(20)]
    served = 0
    for attacker in attackers:
        attacker.send(WIDE)
        for stream in range(1, 200, 2):
            attacker.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, head(target.host("loud"))))
        attacker.listen_on(1, lambda: len(attacker.statuses) >= 100)
        served += len(attacker.statuses)
        attacker.close()
    return Seen("20 connections of 100 requests", f"{served} answered")


@attack(
    "answers of a gigabyte, and no window for them",
    "closed after `timeouts.idle`",
    server=96, agent=96,
)
def no_window(target):
    attackers, statuses = [], 0
    for number in range(8):
        attacker = Attacker(target.http, settings=[(INITIAL_WINDOW_SIZE, 0)])
        for stream in range(1, 80, 2):
            attacker.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, head(target.host("loud"), b"/big")))
        attackers.append(attacker)
    started = time.monotonic()
    while time.monotonic() - started < 2 * IDLE + 4 and not all(attacker.closed for attacker in attackers):
        for attacker in attackers:
            if not attacker.closed:
                attacker.listen(0.05)
    took = time.monotonic() - started
    begun = sum(status == 200 for attacker in attackers for status in attacker.statuses.values())
    left = sum(not attacker.closed for attacker in attackers)
    for attacker in attackers:
        attacker.close()
    seen = Seen("320 requests on 8 connections", f"{begun} begun; {8 - left} connections closed within {took:.0f} s, {left} open")
    seen.insist(begun > 100, "hardly any was begun")
    return seen.insist(not left, "an answer without a window holds its place")


@attack("DATA frames with nothing in them", "the connection is ended", server=16)
def empty_data(target):
    attacker = Attacker(target.http)
    attacker.send(frame(HEADERS, END_HEADERS, 1, head(target.host("loud"), b"/unread", b"POST")))
    sent = sent_until_closed(attacker, [frame(DATA, 0, 1) * 100] * 20000, 4)
    seen = Seen(f"{sent * 100:,} frames could be sent", attacker.end())
    attacker.close()
    return seen.insist(seen.happened != "still open", "it was not ended")


@attack("WINDOW_UPDATE by one byte, without a pause", "each costs next to nothing", server=16)
def windows(target):
    attacker = Attacker(target.http)
    attacker.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, head(target.host("loud"), b"/never")))
    one = frame(WINDOW_UPDATE, 0, 0, bytes((0, 0, 0, 1))) + frame(WINDOW_UPDATE, 0, 1, bytes((0, 0, 0, 1)))
    sent = sent_until_closed(attacker, [one * 100] * 20000, 4)
    seen = Seen(f"{sent * 200:,}", attacker.end())
    attacker.close()
    return seen


@attack(
    "requests without a pause, over HTTP/2",
    "100 a second beyond 300 at once, which wait for up to a second; 429 beyond that",
    settings=("limits.per_ip.requests_per_second=100", "limits.per_ip.burst=300"),
)
def flood(target):
    attacker, stream, started = Attacker(target.http), 1, time.monotonic()
    attacker.send(WIDE)
    fields = head(target.host("loud"))
    while time.monotonic() - started < 4 and not attacker.closed:
        if stream // 2 - len(attacker.statuses) - len(attacker.resets) < 100:
            block = (frame(HEADERS, END_HEADERS | END_STREAM, stream + 2 * more, fields) for more in range(50))
            attacker.send(b"".join(block))
            stream += 100
        else:
            attacker.listen(0.1)
    served = sum(status == 200 for status in attacker.statuses.values())
    words = f"{served} served, {len(attacker.statuses) - served:,} refused, {len(attacker.resets)} reset, {attacker.end()}"
    attacker.close()
    return Seen(f"{stream // 2:,} requests in 4 s", words).insist(served <= 900, "more than its rate were served")
