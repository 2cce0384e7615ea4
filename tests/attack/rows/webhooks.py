"""Bodies that the server holds until it knows their signature."""

import hashlib
import hmac
import http.client
import threading
import time

from attacks import Seen, addresses, attack, crowd, in_words, request
from target import HOOKS, SECRET

# A body that is nearly complete, and how many there are of it. Five of the large ones fill the server's 64 MiB.
SMALL, LARGE = 1 << 20, 25 << 20

# How long a sender may be silent, and what a busy machine may add.
SILENCE, SLACK = 5, 5


def signature(body):
    return "sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest()


def begin(target, count, length, sources):
    """So many bodies of this length, in turn to each service of `loud`, without their last ten bytes."""
    many = crowd(target.http, count, sources)
    left = {}
    for number, connection in enumerate(list(many.open.values())):
        host = target.host(HOOKS["loud"][number % len(HOOKS["loud"])])
        fields = f"Content-Length: {length}\r\nX-Hub-Signature-256: {signature(b'')}\r\n"
        head = request(host, "/", "POST", fields)
        left[connection] = memoryview(head + bytes(length - 10))
    end = time.monotonic() + 10
    while left and time.monotonic() < end:
        for connection in [connection for connection in left if connection not in many.open.values()]:
            del left[connection]
        for connection in list(left):
            try:
                left[connection] = left[connection][connection.send(left[connection]):]
            except BlockingIOError:
                pass
            except OSError:
                del left[connection]
                continue
            if not left[connection]:
                del left[connection]
        many.listen(0.01)
    return many


class Sender(threading.Thread):
    """Sends signed webhooks to the neighbour, one after another, until it is told to stop."""

    def __init__(self, target):
        super().__init__(daemon=True)
        self.target, self.counts, self.slowest, self.done = target, {}, 0.0, threading.Event()

    def run(self):
        while not self.done.is_set():
            for size in (100, 60_000, 1_000_000):
                body, started = b"y" * size, time.monotonic()
                try:
                    connection = http.client.HTTPConnection("127.0.0.1", self.target.http, timeout=10)
                    fields = {"Host": self.target.host("quiet-hook"), "X-Hub-Signature-256": signature(body)}
                    connection.request("POST", "/", body, fields)
                    status = connection.getresponse().status
                    connection.close()
                except OSError:
                    status = 0
                self.counts[status] = self.counts.get(status, 0) + 1
                self.slowest = max(self.slowest, time.monotonic() - started)
            # The bystander comes from the same address: together they stay below its rate.
            self.done.wait(0.5)


@attack(
    "unsigned bodies that stop before their end, at four services, from one address and from 100",
    "an uninvolved tenant's webhooks arrive, all of them; who is silent gets 408 within seconds",
    server=192, agent=96, seconds=60,
)
def held_bodies(target):
    sender = Sender(target)
    sender.start()
    seen = Seen("64 of 1 MiB from one address; 100 from as many; 8 of 25 MiB", "")
    for count, length, sources in [(64, SMALL, addresses(1)), (100, SMALL, addresses(100)), (8, LARGE, addresses(2))]:
        many = begin(target, count, length, sources)
        many.listen(SILENCE + SLACK)
        seen.insist(not many.open, f"{len(many.open)} of {count} silent senders are still waited for")
        answers = many.answers()
        seen.happened += f"{in_words(answers)}; "
        many.leave()
    sender.done.set()
    sender.join(15)
    seen.happened += f"the tenant's webhooks: {in_words(sender.counts)}, {sender.slowest * 1000:.0f} ms at most"
    seen.insist(set(sender.counts) == {200}, f"the uninvolved tenant's webhooks got {in_words(sender.counts)}")
    return seen.insist(sender.slowest < 5, "the uninvolved tenant's webhooks had to wait")
