"""An ASGI application for the restarts: a page that listens to events, which go on until the application ends."""

import asyncio
import os
import uuid

PAGE = b"""<!doctype html><title>alive</title><pre id="log"></pre><script>
window.failures = 0;
const events = new EventSource("/ticks");
events.onmessage = (message) => { document.getElementById("log").textContent += message.data + "\\n"; };
events.onerror = () => { window.failures += 1; };
</script>"""


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": message["type"] + ".complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    kind, status = {"/page": ("text/html", 200), "/ticks": ("text/event-stream", 200)}.get(scope["path"], ("text/plain", 404))
    headers = [(b"content-type", kind.encode()), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if scope["path"] == "/ticks":
        await events(receive, send)
    else:
        body = PAGE if scope["path"] == "/page" else b""
        await send({"type": "http.response.body", "body": body})


async def events(receive, send):
    """Each event has the process and the request that it belongs to. The browser reconnects sooner than by default."""
    stream = uuid.uuid4()
    text = "retry: 250\n"
    left = asyncio.create_task(gone(receive))
    while not left.done():
        text += f"data: {os.getpid()} {stream}\n\n"
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        text = ""
        await asyncio.wait([left], timeout=0.1)


async def gone(receive):
    while (await receive())["type"] != "http.disconnect":
        pass
