"""A browser: a page with an EventSource, a WebSocket and a fetch, as people would see it."""

import json
import re
import socket
import ssl
import tempfile
import urllib.request

from matrix import row
from rows import asgi, https
from stack import PATIENCE, Program, free_port, wait_for

GROUP = "Chromium"
NAME = "uvicorn"

OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--ignore-certificate-errors",
]


def start(stack):
    asgi.offer(stack, NAME)
    https.start(stack)


class Browser:
    """A browser that is told what to do over its own debugging port."""

    def __init__(self, way, url_port):
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        port = free_port()
        rules = f"MAP *.tunnel.test 127.0.0.1:{url_port}, EXCLUDE 127.0.0.1"
        options = [*OPTIONS, f"--user-data-dir={self.folder.name}", f"--remote-debugging-port={port}", "--remote-allow-origins=*"]
        self.program = Program("chromium", ["chromium", *options, f"--host-resolver-rules={rules}", "about:blank"], port)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE) as answer:
            target = next(target for target in json.load(answer) if target["type"] == "page")
        from websockets.sync.client import connect

        self.socket, self.count = connect(target["webSocketDebuggerUrl"], max_size=None), 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.program.end()
        self.folder.cleanup()

    def do(self, method, **parameters):
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": parameters}))
        while (answer := json.loads(self.socket.recv(timeout=PATIENCE))).get("id") != self.count:
            pass
        return answer["result"]

    def text(self, selector):
        expression = f"document.querySelector({json.dumps(selector)})?.textContent"
        return self.do("Runtime.evaluate", expression=expression)["result"].get("value") or ""


def page(way, scheme, port, name=NAME):
    """What the page has written down when everything on it has happened."""
    with Browser(way, port) as browser:
        browser.do("Page.navigate", url=f"{scheme}://{way.host(name)}/page")
        wait_for("the page", lambda: browser.text("#log").count("\n") >= 5)
        protocol = browser.do("Runtime.evaluate", expression="performance.getEntriesByType('navigation')[0].nextHopProtocol")
        lines = sorted(browser.text("#log").splitlines())
    return {"short": "; ".join(lines), "lines": lines}, protocol["result"]["value"]


@row(GROUP, "a page with events, a WebSocket and a fetch")
def _(way):
    return page(way, "http", way.port(NAME))[0]


@row(GROUP, "the same over HTTPS and HTTP/2, from an application with TLS of its own")
def _(way):
    seen, protocol = page(way, "https", way.tls_port(https.NAME), https.NAME)
    return {**seen, "short": f"{protocol}: {seen['short']}", "protocol": protocol}
