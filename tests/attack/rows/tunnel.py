"""Strangers on the tunnel port."""

import json
import os
import ssl
import statistics
import struct
import time

from attacks import Crowd, Seen, addresses, attack, connect, crowd, try_send
from target import LOGIN_TIMEOUT


def tls(connection, alpn="adit/1"):
    """TLS as an agent speaks it; an attacker does not ask who is there."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    return context.wrap_socket(connection, server_hostname="localhost")


def hello(client, token):
    message = {
        "protocol": 1, "capabilities": [], "required": [], "client_id": client, "instance_id": os.urandom(16).hex(),
        "token": token, "timestamp": int(time.time()), "agent": {"name": "x", "version": "0", "os": "x"}, "services": [],
    }
    text = json.dumps(message).encode()
    return struct.pack(">I", len(text)) + text


def log_in(target, client, token, source):
    """The code of a refusal, `known`, or `closed`."""
    try:
        with tls(connect(target.tunnel, source)) as pipe:
            pipe.sendall(hello(client, token))
            data = b""
            while piece := pipe.recv(65536):
                data += piece
    except (OSError, ssl.SSLError):
        return "closed"
    answer = json.loads(data[4:]) if len(data) > 4 else {}
    return answer.get("refused", {}).get("code") or next(iter(answer), "closed")


WRONG = "adit_" + "A" * 43


@attack(
    "TCP connections that say nothing, one address",
    "32 are held, and for `login_timeout` only; the rest is closed at once",
)
def silent(target):
    many = crowd(target.tunnel, 400).listen(1)
    held = len(many.open)
    others = log_in(target, "nobody", WRONG, addresses(1, 9)[0])
    many.listen(LOGIN_TIMEOUT + 2)
    seen = Seen("400 connections", f"{held} held, {400 - held} closed at once; {len(many.open)} left after {LOGIN_TIMEOUT} s")
    seen.insist(held <= 32, "more than 32 were held").insist(not many.open, "some were not closed")
    return seen.insist(others != "closed", "a login from elsewhere was not heard")


@attack("the same from 100 addresses", "1,024 at most are held; a login from elsewhere is heard all the same")
def silent_everywhere(target):
    many = crowd(target.tunnel, 3200, addresses(100)).listen(0.5)
    held = len(many.open)
    others = log_in(target, "nobody", WRONG, addresses(1, 9)[0])
    many.listen(LOGIN_TIMEOUT + 2)
    seen = Seen("3,200 connections", f"{held} held, the rest closed at once; a login from elsewhere: {others}")
    seen.insist(held < 1024, "the places were all taken").insist(not many.open, "some were not closed")
    return seen.insist(others != "closed", "a login from elsewhere was not heard")


@attack("garbage instead of TLS", "each is closed at once")
def garbage(target):
    sources, tried, left = addresses(20), 0, 0
    started = time.monotonic()
    while time.monotonic() - started < 3:
        one = Crowd()
        # No record of TLS begins so: one that promised more than this would be waited for.
        try_send(one.add(connect(target.tunnel, sources[tried % 20])), b"\x00" + os.urandom(2000))
        tried += 1
        left += len(one.listen(1).open)
        one.leave()
    took = (time.monotonic() - started) / tried * 1000
    seen = Seen(f"{tried:,} connections, one after the other", f"closed, after {took:.1f} ms on average")
    return seen.insist(not left, f"{left} stayed open")


@attack("half a login, then silence", "closed after `login_timeout`")
def half_a_login(target):
    pipes = []
    for number in range(96):
        pipe = tls(connect(target.tunnel, addresses(4)[number % 4]))
        pipe.sendall(hello("loud", WRONG)[:100])
        pipes.append(pipe)
    started, left = time.monotonic(), 0
    for pipe in pipes:
        pipe.settimeout(max(0.01, LOGIN_TIMEOUT + 2 - (time.monotonic() - started)))
        try:
            left += bool(pipe.recv(1))
        except TimeoutError:
            left += 1
        except OSError:
            pass
    seen = Seen("96 logins", f"{96 - left} closed within {time.monotonic() - started:.1f} s, {left} open")
    return seen.insist(not left, "some were not closed")


@attack("a login that is too large", "refused before it is read", server=16)
def oversized(target):
    sent, answered = 0, 0
    for number in range(200):
        pipe = tls(connect(target.tunnel, addresses(10)[number % 10]))
        try:
            pipe.sendall(struct.pack(">I", (1 << 31) if number % 2 else 32 * 1024 + 1))
            for _ in range(64):
                pipe.sendall(bytes(16384))
                sent += 16384
            answered += bool(pipe.recv(1))
        except OSError:
            pass
        pipe.close()
    seen = Seen("200 logins of 32 KiB and a byte, or 2 GiB", f"cut; {sent / 200 / 1024:.0f} KiB each could be sent")
    return seen.insist(not answered, "some were answered").insist(sent < 200 * (1 << 20), "one was read to its end")


@attack(
    "wrong tokens",
    "one answer for unknown clients and wrong tokens, at one price; after 30 a minute the address waits",
    seconds=30,
)
def wrong_tokens(target):
    began, took, codes = time.monotonic(), {"loud": [], "nobody": []}, {}
    sources = addresses(4)
    for number in range(200):
        client = "loud" if number % 2 else "nobody"
        started = time.perf_counter()
        # Another token each time: the answer to one that was refused before is free.
        code = log_in(target, client, f"{WRONG[:-4]}{number:04}", sources[number % 50 // 13])
        codes.setdefault(client, {}).setdefault(code, 0)
        codes[client][code] += 1
        if code == "bad_token":
            took[client].append((time.perf_counter() - started) * 1000)
    medians = {client: statistics.median(times) for client, times in took.items() if times}
    heard = {code: codes["loud"].get(code, 0) + codes["nobody"].get(code, 0) for code in ("bad_token", "too_many")}
    words = f"{heard['bad_token']} × `bad_token`, {heard['too_many']} × `too_many`; "
    words += f"unknown {medians.get('nobody', 0):.0f} ms, known {medians.get('loud', 0):.0f} ms (medians)"
    seen = Seen("200 logins from 4 addresses", words)
    seen.insist(sum(heard.values()) == 200, f"other answers: {codes}")
    most = 4 * (30 + (time.monotonic() - began) / 2 + 1)
    seen.insist(heard["bad_token"] <= most, "more than 30 a minute were looked at")
    near = len(medians) == 2 and abs(medians["loud"] - medians["nobody"]) < 0.25 * medians["nobody"] + 5
    return seen.insist(near, "the time tells who is a client")
