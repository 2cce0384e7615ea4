"""An ASGI application for the exchanges: event streams, token streams, long polling, WebSockets, echoes."""

import asyncio
import json
import time

waiting = asyncio.Event()
left = asyncio.Event()


async def body_of(receive):
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body"):
            return


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": message["type"] + ".complete"})
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket":
        await websocket(scope, receive, send)
    else:
        await http(scope, receive, send)


async def start(send, status=200, *fields):
    headers = [(name.encode(), value.encode()) for name, value in fields]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def piece(send, data, more=True):
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def http(scope, receive, send):
    path = scope["path"]
    if path == "/events":
        await start(send, 200, ("content-type", "text/event-stream"), ("cache-control", "no-store"))
        for number in range(int(scope["query_string"] or b"5")):
            event = f"id: {number}\nevent: tick\ndata: {json.dumps({'at': time.monotonic()})}\n\n"
            await piece(send, event.encode())
            await asyncio.sleep(0.02)
        await piece(send, b"", more=False)
    elif path == "/tokens":
        await start(send, 200, ("content-type", "application/x-ndjson"))
        for word in "a language model writes one word after the other".split():
            await piece(send, json.dumps({"token": word}).encode() + b"\n")
            await asyncio.sleep(0.01)
        await piece(send, b'{"done": true}\n', more=False)
    elif path == "/poll":
        await asyncio.wait_for(waiting.wait(), 20)
        waiting.clear()
        await start(send, 200, ("content-type", "text/plain"))
        await piece(send, b"something has happened", more=False)
    elif path == "/wake":
        waiting.set()
        await start(send, 204)
        await piece(send, b"", more=False)
    elif path == "/echo":
        await start(send, 200, ("content-type", "application/octet-stream"))
        async for data in body_of(receive):
            await piece(send, data)
        await piece(send, b"", more=False)
    elif path == "/seen":
        headers = [f"{name.decode()}: {value.decode('latin-1')}" for name, value in scope["headers"]]
        own = sorted(line for line in headers if line.startswith(("x-mine", "cookie", "host")))
        data = b"".join([data async for data in body_of(receive)])
        text = json.dumps([scope["method"], scope["raw_path"].decode(), scope["query_string"].decode(), own, data.decode()])
        await start(send, 200, ("content-type", "application/json"))
        await piece(send, text.encode(), more=False)
    elif path == "/framing":
        length = dict(scope["headers"]).get(b"content-length")
        data = b"".join([data async for data in body_of(receive)])
        await start(send, 200)
        await piece(send, json.dumps([length and length.decode(), len(data)]).encode(), more=False)
    elif path == "/bytes":
        await start(send, 200)
        for _ in range(int(scope["query_string"]) // 16384):
            await piece(send, b"b" * 16384)
        await piece(send, b"", more=False)
    elif path == "/hold":
        # Nothing is answered, or something and then nothing more.
        if scope["query_string"]:
            await start(send, 200)
            await piece(send, b"some")
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()
    elif path == "/left":
        await asyncio.wait_for(left.wait(), 20)
        left.clear()
        await start(send, 204)
        await piece(send, b"", more=False)
    elif path == "/page":
        await start(send, 200, ("content-type", "text/html"))
        await piece(send, PAGE, more=False)
    else:
        await start(send, 404)
        await piece(send, b"", more=False)


async def websocket(scope, receive, send):
    assert (await receive())["type"] == "websocket.connect"
    if scope["path"] == "/forbidden":
        await send({"type": "websocket.close", "code": 1008})
        return
    wanted = scope["subprotocols"]
    await send({"type": "websocket.accept", "subprotocol": wanted[-1] if wanted else None})
    while (message := await receive())["type"] == "websocket.receive":
        if (text := message.get("text")) is not None:
            if text.startswith("close "):
                await send({"type": "websocket.close", "code": int(text[6:]), "reason": "as asked"})
                return
            await send({"type": "websocket.send", "text": text.upper()})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"][::-1]})


PAGE = b"""<!doctype html><title>page</title><pre id="log"></pre><script>
const log = (text) => { document.getElementById("log").textContent += text + "\\n"; };
const events = new EventSource("/events?3");
let ticks = 0;
events.addEventListener("tick", () => { ticks += 1; if (ticks === 3) { events.close(); log("three events"); } });
const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/socket`);
socket.onopen = () => { log("socket open"); socket.send("hello"); };
socket.onmessage = (message) => { log("socket says " + message.data); socket.send("close 4001"); };
socket.onclose = (close) => { log(`socket closed ${close.code} ${close.wasClean}`); };
fetch("/echo", { method: "POST", body: "posted" }).then((answer) => answer.text()).then((text) => log("echo " + text));
</script>"""
