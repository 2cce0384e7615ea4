"""The part of the local application that nginx is not: `python3 bench/app.py ADDRESS PORT`.

    POST or PUT /sink   takes any body of a given length and answers with the number of bytes that came
    GET /echo           a WebSocket (RFC 6455) that sends back every message of at most 125 bytes
    GET /wait           answers never: a request that waits
"""

import asyncio
import base64
import hashlib
import re
import sys

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
ROOM = 1 << 20


class Visitor(asyncio.BufferedProtocol):
    """One connection. Bodies are read into one buffer and only counted, so that the sink costs little."""

    def connection_made(self, transport):
        self.transport = transport
        self.room = memoryview(bytearray(256 * 1024))
        self.begun = b""
        self.serve = self.head
        self.left = self.length = 0

    def get_buffer(self, _):
        return self.room

    def buffer_updated(self, count):
        self.serve(self.room[:count])

    def head(self, data):
        """Gathers a head, and turns to what it asks for."""
        self.begun += data
        if len(self.begun) > ROOM:
            self.transport.close()
        head, end, rest = self.begun.partition(b"\r\n\r\n")
        if not end:
            return
        self.begun = b""
        path = head.split(b" ", 2)[1]
        if path == b"/echo":
            self.open_echo(head)
        elif path == b"/wait":
            self.serve = lambda data: None
        else:
            found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            self.length = self.left = int(found.group(1)) if found else 0
            if re.search(rb"(?i)\r\nexpect: *100-continue", head):
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.serve = self.sink
            self.sink(rest)

    def sink(self, data):
        """Counts a body."""
        self.left -= len(data)
        if self.left <= 0:
            body = b"%d" % (self.length - self.left)
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            self.serve = self.head

    def open_echo(self, head):
        key = re.search(rb"(?i)\r\nsec-websocket-key: *(\S+)", head).group(1)
        accept = base64.b64encode(hashlib.sha1(key + MAGIC).digest())
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept
        )
        self.serve = self.echo

    def echo(self, data):
        """Sends each whole message back, unmasked, as a server does."""
        self.begun += data
        while len(self.begun) >= 6:
            size = self.begun[1] & 0x7F
            if size > 125:
                return self.transport.close()
            if len(self.begun) < 6 + size:
                return
            mask, masked = self.begun[2:6], self.begun[6 : 6 + size]
            self.transport.write(bytes((self.begun[0], size)) + bytes(byte ^ mask[i % 4] for i, byte in enumerate(masked)))
            self.begun = self.begun[6 + size :]


async def main(address, port):
    server = await asyncio.get_running_loop().create_server(Visitor, address, port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
