"""A tenant that is large: nobody pays for a neighbour."""

import threading
import time

from attacks import Seen, addresses, attack, connect, in_words, request


@attack(
    "a tenant's download of a gigabyte, a slow reader and a flood of requests",
    "the neighbour's p99 is within twice of what it was, or 5 ms more",
    times=2, server=64, agent=64, seconds=60,
)
def large_tenant(target):
    """All of it over five seconds at least. The download goes as fast as this attacker reads, up to 100 MB/s; the flood
    is what one address may send, and some more that is refused."""
    taken, counts, done = [0], {}, threading.Event()

    def download():
        with connect(target.http, addresses(3)[0]) as connection:
            connection.sendall(request(target.host("loud"), "/big"))
            started = time.monotonic()
            while taken[0] < 1 << 30 and (piece := connection.recv(1 << 20)):
                taken[0] += len(piece)
                # No faster than a good line.
                time.sleep(max(0, taken[0] / 100e6 - (time.monotonic() - started)))
        done.set()

    def read_slowly():
        with connect(target.http, addresses(3)[1]) as connection:
            connection.sendall(request(target.host("loud"), "/big"))
            while not done.wait(0.1):
                connection.recv(10_000)

    def flood():
        with connect(target.http, addresses(3)[2]) as connection:
            while not done.wait(0.005):
                connection.sendall(request(target.host("loud")))
                status = int(connection.recv(4096)[9:12])
                counts[status] = counts.get(status, 0) + 1

    threads = [threading.Thread(target=run) for run in (download, read_slowly, flood)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - started
    words = f"{taken[0] / took / 1e6:.0f} MB/s; flood: {in_words(counts)}"
    return Seen(f"{taken[0] / 1e6:,.0f} MB in {took:.0f} s", words).insist(taken[0] >= 1 << 30, "the download broke off")
