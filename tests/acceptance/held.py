"""A request that stays open, and a visitor that comes while the server is ending because of it."""

import json
import pathlib
import socket
import ssl
import threading
import urllib.request

from basics import AUTHORITY, DOMAIN, PATIENCE, SITE, NotTrue, explained, until


class Held:
    """A download whose visitor does not read: a request that stays open."""

    SIZE = 1 << 28

    def __init__(self):
        with open("/srv/site/large", "wb") as file:
            file.truncate(self.SIZE)
        trust = ssl.create_default_context(cafile=AUTHORITY)
        self.socket = trust.wrap_socket(socket.create_connection((SITE, 443), timeout=PATIENCE), server_hostname=SITE)
        self.socket.sendall(f"GET /large HTTP/1.1\r\nHost: {SITE}\r\n\r\n".encode())
        if not self.socket.recv(100).startswith(b"HTTP/1.1 200"):
            raise NotTrue("the download has not begun")

    def id(self):
        token = pathlib.Path("/var/lib/adit/certs/admin-token").read_text().strip()
        asked = urllib.request.Request("http://127.0.0.1:9091/api/v1/requests", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            found = [item["id"] for item in json.load(answer)["items"] if item["path"] == "/large"]
        if len(found) != 1:
            raise NotTrue(f"{len(found)} downloads are open")
        return found[0]

    def read(self):
        """How much comes until it ends."""
        had = 0
        try:
            while piece := self.socket.recv(1 << 20):
                had += len(piece)
        except OSError:
            pass
        return had


def takes_visitors(server):
    """Whether this process has a socket that listens on port 80; systemd may have it beside it."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in pathlib.Path("/proc/net", name).read_text().splitlines()[1:]]
    listening = {f"socket:[{words[9]}]" for words in lines if words[1].endswith(":0050") and words[3] == "0A"}
    return any(target(fd) in listening for fd in pathlib.Path(f"/proc/{server}/fd").iterdir())


def target(fd):
    try:
        return str(fd.readlink())
    except FileNotFoundError:
        return None


class Newcomer:
    """A visitor that comes while the server restarts, which a download keeps from ending until the visitor is there."""

    def __init__(self):
        self.held, self.outcome = Held(), None
        server = json.loads(pathlib.Path("/run/units/adit-server/main").read_text())["pid"]
        self.thread = threading.Thread(target=self.come, args=[server])
        self.thread.start()

    def come(self, server):
        try:
            until("the server to take nobody in", lambda: not takes_visitors(server))
            with socket.create_connection((DOMAIN, 80), timeout=PATIENCE) as visitor:
                visitor.sendall(f"GET /health HTTP/1.1\r\nHost: {DOMAIN}\r\nConnection: close\r\n\r\n".encode())
                self.held.socket.close()
                self.outcome = visitor.recv(100).split(b"\r\n")[0].decode()
        except (OSError, NotTrue) as error:
            self.outcome = explained(error)
        finally:
            self.held.socket.close()

    def expect(self, wanted):
        self.thread.join()
        if wanted not in self.outcome:
            raise NotTrue(f"not {wanted}, but {self.outcome}")
        return self.outcome
