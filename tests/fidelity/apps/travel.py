"""An ASGI application that sends its visitors on in every way that applications do, and shows what they come with."""

import json
from urllib.parse import parse_qs

PAGE = b"""<!doctype html><title>travel</title>
<form method="post" action="start"><input name="a" value="1"></form>"""


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": message["type"] + ".complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    fields = {name.decode(): value.decode() for name, value in scope["headers"]}
    status, headers, text = answer(scope, fields, body)
    head = [(name.encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": text})


def answer(scope, fields, body):
    asked = {name: value[0] for name, value in parse_qs(scope["query_string"].decode()).items()}
    # What it knows of itself, as a naive one does: the host that it was asked for, and where it listens.
    host, own = fields["host"], "{}:{}".format(*scope["server"])
    targets = {
        "relative": "end",
        "absolute path": "/end",
        "its host": f"http://{host}/end",
        "no scheme": f"//{host}/end",
        "its host and port": f"http://{host.split(':')[0]}:{scope['server'][1]}/end",
        "its own address": f"http://{own}/end",
        "localhost": f"http://localhost:{scope['server'][1]}/end",
    }
    if scope["path"] == "/start":
        target, status = targets[asked.get("to", "absolute path")], int(asked.get("status", "303"))
        name = host.split(":")[0]
        cookies = [
            "plain=1", "all=1; Path=/", "deep=1; Path=/end", "elsewhere=1; Path=/other", f"domain=1; Domain={name}; Path=/",
            "secure=1; Secure; Path=/", "__Secure-a=1; Secure; Path=/", "__Host-b=1; Secure; Path=/", "strict=1; SameSite=Strict; HttpOnly; Path=/",
        ]
        by = {"Refresh": [("refresh", f"0; url={target}"), ("content-type", "text/html")], "Location": [("location", target)]}
        headers = by[asked.get("by", "Location")] + [("set-cookie", cookie) for cookie in cookies]
        return 200 if "by" in asked else status, headers, b""
    if scope["path"] == "/end":
        cookies = sorted(pair.strip() for pair in fields.get("cookie", "").split(";") if pair.strip())
        seen = {"method": scope["method"], "body": body.decode(), "cookies": cookies}
        return 200, [("content-type", "text/plain"), ("cache-control", "no-store")], json.dumps(seen).encode()
    if scope["path"] == "/pages":
        number = int(asked.get("page", "1"))
        links = [("link", f'<http://{own}/pages?page={number + 1}>; rel="next"')] if number < 3 else []
        return 200, links, b"%d" % number
    if scope["path"] == "/shared":
        allowed = [("access-control-allow-origin", fields.get("origin", "none")), ("access-control-allow-credentials", "true")]
        return 200, allowed, b"shared"
    if scope["path"] == "/form":
        return 200, [("content-type", "text/html")], PAGE
    return 404, [], b""
