"""The road from a visitor to the server: a proxy (CONNECT) that leads every host of the domain to the server's HTTPS port.

It stands in for DNS and port 443. So visitors use the addresses of the document, and nothing else leads anywhere."""

import socket
import socketserver
import threading

from stack import PATIENCE

# The address of those who come this way; the agent has another one.
VISITOR = "127.0.0.7"


class Road(socketserver.ThreadingTCPServer):
    """Runs until `close`; `url` is what clients take as `https_proxy`."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, domain, port):
        super().__init__(("127.0.0.1", 0), Traveller)
        self.domain, self.port = domain, port
        # Where clients wanted to go and could not: an application that sends them elsewhere is noticed.
        self.refused = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def leads_to(self, target):
        host, _, port = target.rpartition(":")
        return port == "443" and (host == self.domain or host.endswith(f".{self.domain}"))

    def close(self):
        self.shutdown()
        self.server_close()


class Traveller(socketserver.StreamRequestHandler):
    timeout = 600

    def handle(self):
        words = self.rfile.readline(4096).decode("latin-1").split()
        while self.rfile.readline(65536).strip():
            pass
        if len(words) != 3 or words[0] != "CONNECT" or not self.server.leads_to(words[1]):
            self.server.refused.append(" ".join(words[:2]))
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        with socket.create_connection(("127.0.0.1", self.server.port), PATIENCE, (VISITOR, 0)) as onward:
            onward.settimeout(self.timeout)
            self.wfile.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            back = threading.Thread(target=copy, args=(onward, self.connection), daemon=True)
            back.start()
            copy(self.connection, onward)
            back.join()


def copy(one, other):
    """Copies until the end of one side, and passes the end on."""
    try:
        while piece := one.recv(65536):
            other.sendall(piece)
        other.shutdown(socket.SHUT_WR)
    except OSError:
        for side in (one, other):
            try:
                side.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
