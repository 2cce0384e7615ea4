"""A visitor of the quiet tenant: small requests, one at a time, from 127.0.0.1, for as long as the run lasts. A process of
its own, so that it waits for nobody but the server."""

import multiprocessing
import socket
import time

# Below the rate that an address may have (100 a second).
PAUSE = 0.012
PATIENCE = 10


class Bystander:
    def __init__(self, target):
        self.pipe, other = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=ask_on, args=(target.http, target.host("quiet"), other), daemon=True)
        self.process.start()

    def take(self):
        """What has come of its requests since the last time: milliseconds, and what went wrong."""
        self.pipe.send("take")
        return self.pipe.recv()

    def close(self):
        self.process.terminate()
        self.process.join()


def ask_on(port, host, pipe):
    kept, taken, failed, fresh = None, [], [], False
    while True:
        started = time.perf_counter()
        try:
            # Every second request is on a connection of its own, every other one on one that is kept.
            if fresh:
                with connect(port) as connection:
                    ask(connection, host)
            else:
                kept = kept or connect(port)
                ask(kept, host)
            taken.append((time.perf_counter() - started) * 1000)
        except OSError as error:
            failed.append(f"{'fresh' if fresh else 'kept'} connection: {error!r}")
            kept = kept if fresh else None
        fresh = not fresh
        if pipe.poll(PAUSE):
            pipe.recv()
            pipe.send((taken, failed))
            taken, failed = [], []


def connect(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def ask(connection, host):
    connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\nok"):
        piece = connection.recv(4096)
        if not piece or len(answer) > 4096:
            raise OSError(f"answered {answer[:60]!r}")
        answer += piece
    if not answer.startswith(b"HTTP/1.1 200"):
        raise OSError(f"answered {answer[:60]!r}")


def percentile(samples, share):
    """The smallest sample that so large a share of them does not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")
