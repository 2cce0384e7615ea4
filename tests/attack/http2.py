"""HTTP/2 frame by frame (RFC 9113), as an attacker writes it: nothing is checked, nothing is waited for."""

import socket
import struct
import time

from attacks import ATTACKER, connect

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
ACK = END_STREAM = 1
END_HEADERS = 4
CANCEL, REFUSED_STREAM, ENHANCE_YOUR_CALM = 8, 7, 11
INITIAL_WINDOW_SIZE = 4

ERRORS = {0: "NO_ERROR", 1: "PROTOCOL_ERROR", 2: "INTERNAL_ERROR", 3: "FLOW_CONTROL_ERROR", 5: "STREAM_CLOSED",
          6: "FRAME_SIZE_ERROR", 7: "REFUSED_STREAM", 8: "CANCEL", 9: "COMPRESSION_ERROR", 11: "ENHANCE_YOUR_CALM"}


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def number(prefix, bits, value):
    """An integer of HPACK (RFC 7541, section 5.1), behind what `prefix` says."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([prefix | value])
    out, value = [prefix | most], value - most
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def text(value):
    """A string of HPACK, not compressed."""
    return number(0, 7, len(value)) + value


def literal(name, value, indexed=False):
    """A field that is not in a table; `indexed` puts it into the other side's."""
    return (b"\x40" if indexed else b"\x00") + text(name) + text(value)


def head(host, path=b"/", method=b"GET"):
    """The fields of a request: `:method`, `:scheme`, `:path`, `:authority`, by their places in the static table."""
    return (
        (b"\x82" if method == b"GET" else b"\x83") + b"\x86" + number(0, 4, 4) + text(path)
        + number(0, 4, 1) + text(host.encode())
    )


class Attacker:
    """A connection by prior knowledge."""

    def __init__(self, port, source=ATTACKER, settings=()):
        self.socket = connect(port, source)
        self.received = b""
        self.closed = False
        # What has come: for each stream its status and its bytes, resets and the last words.
        self.statuses, self.resets, self.goaway = {}, {}, None
        self.acknowledged = self.bytes = 0
        values = b"".join(struct.pack(">HI", *setting) for setting in settings)
        self.send(PREFACE + frame(SETTINGS, 0, 0, values))

    def send(self, data):
        """Sends all of it unless the server goes first; `False` then. Reads what comes in between: a server that is not
        listened to would be the attacker's own doing."""
        left = memoryview(data)
        self.socket.setblocking(False)
        try:
            while left and not self.closed:
                try:
                    left = left[self.socket.send(left):]
                except BlockingIOError:
                    self.listen(0.02)
                self.drain()
        except OSError:
            self.drain()
            self.closed = True
        return not self.closed

    def drain(self):
        """Reads what is there."""
        try:
            while piece := self.socket.recv(1 << 18, socket.MSG_DONTWAIT):
                self.take(piece)
            self.closed = True
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True

    def listen(self, seconds):
        """Reads what comes next, if it comes in time; `False` if nothing did."""
        self.socket.settimeout(seconds)
        try:
            piece = self.socket.recv(1 << 18)
            self.closed = not piece
            self.take(piece)
            return bool(piece)
        except TimeoutError:
            return False
        except OSError:
            self.closed = True
            return False

    def listen_on(self, seconds, until=lambda: False):
        """Reads for so long, or until the server closes or `until` holds."""
        end = time.monotonic() + seconds
        while not self.closed and not until() and time.monotonic() < end:
            self.listen(0.1)
        return self

    def take(self, piece):
        self.received += piece
        at = 0
        while len(self.received) - at >= 9:
            length = int.from_bytes(self.received[at : at + 3], "big")
            if len(self.received) - at < 9 + length:
                break
            kind, flags = self.received[at + 3], self.received[at + 4]
            stream = int.from_bytes(self.received[at + 5 : at + 9], "big") & 0x7FFFFFFF
            self.on_frame(kind, flags, stream, self.received[at + 9 : at + 9 + length])
            at += 9 + length
        self.received = self.received[at:]

    def on_frame(self, kind, flags, stream, payload):
        if kind == HEADERS:
            self.statuses.setdefault(stream, status_of(payload))
        elif kind == DATA:
            self.bytes += len(payload)
        elif kind == RST_STREAM:
            self.resets[stream] = int.from_bytes(payload, "big")
        elif kind == GOAWAY:
            self.goaway = int.from_bytes(payload[4:8], "big")
        elif kind in (SETTINGS, PING) and flags & ACK:
            self.acknowledged += 1

    def end(self):
        """How the server has ended it, for a person."""
        if self.goaway is not None:
            return f"GOAWAY {ERRORS.get(self.goaway, self.goaway)}"
        return "closed" if self.closed else "still open"

    def close(self):
        self.socket.close()


def status_of(block):
    """The status that a block of HPACK begins with, if it says it plainly."""
    known = {0x88: 200, 0x89: 204, 0x8A: 206, 0x8B: 304, 0x8C: 400, 0x8D: 404, 0x8E: 500}
    while block and block[0] & 0xE0 == 0x20:
        block = block[1:]
    if block and block[0] in known:
        return known[block[0]]
    # Any other status is a literal with the name `:status`; three digits, in Huffman's code two bytes.
    return -1
