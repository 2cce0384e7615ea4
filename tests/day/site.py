"""A tenant's application: a page that says its name, and one that ends only when another request says so."""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HALVES = [b"first half, ", b"second half"]
go = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/slow":
            go.clear()
            self.begin(sum(map(len, HALVES)))
            self.wfile.write(HALVES[0])
            print("begun /slow", flush=True)
            go.wait(60)
            self.wfile.write(HALVES[1])
            return
        if self.path == "/go":
            go.set()
        text = sys.argv[1].encode()
        self.begin(len(text))
        self.wfile.write(text)

    def begin(self, length):
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print("port", server.server_port, flush=True)
server.serve_forever()
