"""A browser: a page with an EventSource, a WebSocket and a fetch, as people would see it."""

import json
import tempfile
import urllib.request
from urllib.parse import urlsplit

from matrix import row
from rows import asgi, https
from stack import DOMAIN, PATIENCE, Program, free_port, wait_for

GROUP = "Chromium"
NAME = "uvicorn"

OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--ignore-certificate-errors",
]


def start(stack):
    asgi.offer(stack, NAME)
    https.start(stack)


class NotNow(OSError):
    """The browser is between two pages, and has none to ask: `wait_for` tries again."""


class Browser:
    """A browser that is told what to do over its own debugging port."""

    def __init__(self, url_port, *switches):
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        port = free_port()
        rules = f"MAP *.{DOMAIN} 127.0.0.1:{url_port}, MAP {DOMAIN} 127.0.0.1:{url_port}, EXCLUDE 127.0.0.1"
        options = [*OPTIONS, *switches, f"--user-data-dir={self.folder.name}", f"--remote-debugging-port={port}", "--remote-allow-origins=*"]
        self.program = Program("chromium", ["chromium", *options, f"--host-resolver-rules={rules}", "about:blank"], port)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE) as answer:
            target = next(target for target in json.load(answer) if target["type"] == "page")
        from websockets.sync.client import connect

        self.socket, self.count = connect(target["webSocketDebuggerUrl"], max_size=None), 0
        # What has happened, as far as the domains are enabled that tell of it.
        self.events = []

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
            self.events.append(answer)
        if "error" in answer:
            raise NotNow(f"{method}: {answer['error']}")
        return answer["result"]

    def evaluate(self, expression):
        """The value of an expression on the page, or that of its promise."""
        made = self.do("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in made:
            raise RuntimeError(f"{expression}: {made['exceptionDetails']}")
        return made["result"].get("value")

    def text(self, selector):
        return self.evaluate(f"document.querySelector({json.dumps(selector)})?.textContent") or ""

    def requests(self, path):
        """How often the browser has asked for this path, since `Network.enable`."""
        # What it has said until now is read ahead of the answer.
        self.do("Runtime.evaluate", expression="0")
        sent = [event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return sum(urlsplit(url).path == path for url in sent)

    def protocol(self):
        """By which protocol the page has come."""
        return self.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol")


def page(way, scheme, port, name=NAME):
    """What the page has written down when everything on it has happened."""
    with Browser(port) as browser:
        browser.do("Page.navigate", url=f"{scheme}://{way.host(name)}/page")
        wait_for("the page", lambda: browser.text("#log").count("\n") >= 5)
        protocol = browser.protocol()
        lines = sorted(browser.text("#log").splitlines())
    return {"short": "; ".join(lines), "lines": lines}, protocol


@row(GROUP, "a page with events, a WebSocket and a fetch")
def _(way):
    return page(way, "http", way.port(NAME))[0]


@row(GROUP, "the same over HTTPS and HTTP/2, from an application with TLS of its own")
def _(way):
    seen, protocol = page(way, "https", way.tls_port(https.NAME), https.NAME)
    return {**seen, "short": f"{protocol}: {seen['short']}", "protocol": protocol}
