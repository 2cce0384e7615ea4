"""The table of attacks, and what attackers do all alike."""

import select
import socket
import struct
import time
from dataclasses import dataclass, field

TABLE = []


@dataclass
class Attack:
    """A row of the table."""

    name: str
    group: str
    # What must happen to the attacker, for a person to read.
    must: str
    run: object
    # The most that the bystander's p99 may be, in milliseconds; or in multiples of what it was before.
    p99: float = 250.0
    times: float | None = None
    # The most by which server, and agents together, may grow, in MiB.
    server: float = 64.0
    agent: float = 48.0
    # The most processor time that the server may take of one core, as a share; `None`: what it needs.
    cpu: float | None = None
    # How long the attack may take, in seconds.
    seconds: float = 20.0
    # A server of its own with these settings, and so many file descriptors.
    settings: tuple = ()
    files: int | None = None


@dataclass
class Seen:
    """What has come of an attack."""

    tried: str
    happened: str
    # What the attacker got that it should not have got, or did not get that it should have.
    wrong: list = field(default_factory=list)

    def insist(self, condition, words):
        if not condition:
            self.wrong.append(words)
        return self


def attack(name, must, **bounds):
    """Puts a function into the table: it attacks a `Target`, in a process of its own, and gives back what was `Seen`."""

    def add(run):
        group = run.__module__.rsplit(".", 1)[-1]
        TABLE.append(Attack(name, group, must, run, **bounds))
        return run

    return add


def addresses(count, first=2):
    """Where attackers come from: 127.0.2.1 and on. The bystander is 127.0.0.1."""
    return [f"127.0.{first + number // 250}.{1 + number % 250}" for number in range(count)]


ATTACKER = addresses(1)[0]


def connect(port, source=ATTACKER, timeout=10):
    connection = socket.create_connection(("127.0.0.1", port), timeout=timeout, source_address=(source, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def reset(connection):
    """Ends a connection at once, and leaves the kernel nothing to remember."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def request(host, path="/", method="GET", fields=""):
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode()


def try_send(connection, data):
    """Sends what the other side takes at once; `False` if it is gone."""
    try:
        connection.send(data, socket.MSG_DONTWAIT)
    except BlockingIOError:
        pass
    except OSError:
        return False
    return True


class Crowd:
    """Many connections, and what is heard on them."""

    def __init__(self):
        self.open, self.heard = {}, {}
        self.poll = select.poll()

    def add(self, connection):
        connection.setblocking(False)
        self.open[connection.fileno()] = connection
        self.heard[connection] = b""
        self.poll.register(connection, select.POLLIN)
        return connection

    def listen(self, seconds, until=lambda: False, keep=4096):
        """Reads what comes and notices who was closed, for so long or until nobody is left, or `until` holds."""
        end = time.monotonic() + seconds
        while self.open and not until() and (left := end - time.monotonic()) > 0:
            for number, _ in self.poll.poll(min(left, 0.1) * 1000):
                connection = self.open[number]
                try:
                    piece = connection.recv(65536)
                except BlockingIOError:
                    continue
                except OSError:
                    piece = b""
                if len(self.heard[connection]) < keep:
                    self.heard[connection] += piece
                if not piece:
                    self.poll.unregister(number)
                    self.open.pop(number).close()
        return self

    def send(self, data):
        for connection in list(self.open.values()):
            try_send(connection, data)

    def answers(self):
        """How often each status was heard first; 0 stands for none."""
        counts = {}
        for heard in self.heard.values():
            status = int(heard[9:12]) if heard.startswith(b"HTTP/1.") else 0
            counts[status] = counts.get(status, 0) + 1
        return counts

    def leave(self):
        for number, connection in list(self.open.items()):
            self.poll.unregister(number)
            reset(connection)
        self.open.clear()


def crowd(port, count, sources=(ATTACKER,), first=b""):
    """So many connections, from these addresses in turn, which say `first`."""
    many = Crowd()
    for number in range(count):
        try:
            connection = connect(port, sources[number % len(sources)])
        except OSError:
            continue
        many.add(connection)
        if first:
            try_send(connection, first)
    return many


def in_words(counts):
    """`{200: 3, 0: 1}` for a person."""
    words = [f"{count} × {status or 'no answer'}" for status, count in sorted(counts.items(), key=lambda pair: -pair[1])]
    return ", ".join(words) or "nothing"
