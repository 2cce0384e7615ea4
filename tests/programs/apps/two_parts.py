"""A local application that answers in two parts: the second follows when another request says so."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PARTS = [b"first part\n", b"second part\n"]
go = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/go":
            go.set()
            self.begin(0)
            return
        self.begin(sum(map(len, PARTS)))
        self.wfile.write(PARTS[0])
        go.wait(60)
        self.wfile.write(PARTS[1])

    def begin(self, length):
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print("port", server.server_port)
server.serve_forever()
