"""Strangers on the admin port."""

import time

from attacks import Seen, addresses, attack, connect, crowd, in_words, request


@attack("wrong admin tokens", "401, and 429 with `Retry-After` after 30 a minute")
def wrong_tokens(target):
    counts, waits = {}, 0
    for number in range(3000):
        if number % 100 == 0:
            connection = connect(target.admin)
        fields = f"Authorization: Bearer adit_admin_{number:064d}\r\n"
        connection.sendall(request("localhost", "/api/v1/clients", fields=fields))
        answer = connection.recv(65536)
        status = int(answer[9:12])
        counts[status] = counts.get(status, 0) + 1
        waits += b"\r\nretry-after:" in answer.lower()
    seen = Seen("3,000 requests", in_words(counts))
    seen.insist(set(counts) <= {401, 429} and counts.get(401, 0) <= 40, "another answer, or more than 30 looked at")
    return seen.insist(waits == counts.get(429), "429 without `Retry-After`")


@attack("connections to the admin port that rest", "64 are held; visitors do not notice")
def resting(target):
    many = crowd(target.admin, 500, addresses(10)).listen(1)
    held = len(many.open)
    many.leave()
    return Seen("500 connections", f"{held} held, the rest made room").insist(held <= 64, "more than 64 were held")


@attack("connections that would lock the operator out of the admin port", "each request beside them is answered within a second")
def lock_out(target):
    """From the operator's own address: silent ones, kept ones, half a head, and answers that are not read."""
    health = request("localhost", "/healthz")
    ways = (b"", health, health[:20], request("localhost", "/api/v1/openapi.json"))
    answered, slowest = 0, 0.0
    for first in ways:
        for _ in range(5):
            many = crowd(target.admin, 100, ("127.0.0.1",), first)
            began = time.monotonic()
            try:
                connection = connect(target.admin, "127.0.0.1", timeout=5)
                connection.sendall(health)
                answered += connection.recv(65536).startswith(b"HTTP/1.1 200 ")
                connection.close()
            except OSError:
                pass
            slowest = max(slowest, time.monotonic() - began)
            many.leave()
    seen = Seen("2,000 connections, and 20 requests beside them", f"{answered} answered, within {slowest * 1000:.0f} ms")
    return seen.insist(answered == 20, "a request was not answered").insist(slowest < 1, "an answer took over a second")
