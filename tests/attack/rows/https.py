"""Visitors on the HTTPS port."""

import os
import ssl
import time

from attacks import Crowd, Seen, addresses, attack, connect, crowd, try_send
from target import HEAD

# A record of TLS that announces 16 KiB of a handshake (RFC 8446, section 5.1), and a ClientHello that announces more.
RECORD = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc"


@attack("garbage instead of a ClientHello", "a TLS alert, and closed")
def garbage(target):
    many = Crowd()
    for number in range(600):
        junk = os.urandom(500) if number % 2 else RECORD + os.urandom(16375)
        try_send(many.add(connect(target.https, addresses(20)[number % 20])), junk)
    many.listen(HEAD + 2)
    alerts = sum(heard.startswith(b"\x15\x03") for heard in many.heard.values())
    left = len(many.open)
    many.leave()
    seen = Seen("600 connections", f"{alerts} TLS alerts, {600 - alerts - left} closed without one, {left} open")
    return seen.insist(not left, "some were not closed")


@attack("a ClientHello that does not end, byte by byte", "closed when `timeouts.head` is over")
def slow_hello(target):
    many = crowd(target.https, 250, first=RECORD)
    started = time.monotonic()
    while many.open and time.monotonic() - started < HEAD + 3:
        many.send(b"\x00")
        many.listen(0.25)
    left = len(many.open)
    many.leave()
    seen = Seen("250 connections", f"{250 - left} closed within {time.monotonic() - started:.1f} s, {left} open")
    return seen.insist(not left, "some were not closed")


@attack("handshakes that are left at once", "each costs a signature, and nothing stays")
def handshakes(target):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    done, started = 0, time.monotonic()
    while time.monotonic() - started < 4:
        try:
            with context.wrap_socket(connect(target.https), server_hostname=target.host("loud")):
                done += 1
        except OSError:
            pass
    return Seen(f"{done:,} in 4 s, one after the other", "done")
