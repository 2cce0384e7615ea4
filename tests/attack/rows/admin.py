"""Strangers on the admin port."""

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
    return Seen("500 connections", f"{held} held, the rest closed at once").insist(held <= 64, "more than 64 were held")
