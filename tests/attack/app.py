"""A local application of few words: `python3 app.py PORT`.

    /           two bytes
    /big        a gigabyte
    /page/N     N bytes
    /unread     takes the head of a request, and nothing of its body, and never answers
    /never      never answers
"""

import asyncio
import re
import sys

PIECE = bytes(256 * 1024)
GIGABYTE = 1 << 30


async def send(writer, length):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
    while length > 0:
        writer.write(PIECE[:length])
        length -= len(PIECE)
        await writer.drain()


async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1]
            if path == b"/big":
                await send(writer, GIGABYTE)
            elif path.startswith(b"/page/"):
                await send(writer, int(path[6:]))
            elif path in (b"/unread", b"/never"):
                writer.transport.pause_reading()
                await asyncio.sleep(600)
            else:
                if length := re.search(rb"(?i)\r\ncontent-length: *(\d+)", head):
                    await reader.readexactly(int(length[1]))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    except (OSError, EOFError, asyncio.LimitOverrunError):
        pass
    finally:
        writer.close()


async def main(port):
    server = await asyncio.start_server(serve, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
