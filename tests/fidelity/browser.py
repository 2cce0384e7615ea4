"""Chromium without a window, told what to do over its debugging port."""

import json
import tempfile
import urllib.request
from urllib.parse import urlsplit

from stack import DOMAIN, PATIENCE, Program, free_port, wait_for

OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--ignore-certificate-errors",
]


class NotNow(OSError):
    """The browser is between two pages, and has none to ask: `wait_for` tries again."""


def to_port(port, domain=DOMAIN):
    """The rules by which the domain and all names below it lead to a port of this machine."""
    return ", ".join([*(f"MAP {name} 127.0.0.1:{port}" for name in (f"*.{domain}", domain)), "EXCLUDE 127.0.0.1"])


class Browser:
    """A browser with one page. `rules` say where names lead, as in `--host-resolver-rules`."""

    def __init__(self, rules, *switches):
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        port = free_port()
        options = [*OPTIONS, *switches, f"--user-data-dir={self.folder.name}", f"--remote-debugging-port={port}", "--remote-allow-origins=*"]
        self.program = Program("chromium", ["chromium", *options, f"--host-resolver-rules={rules}", "about:blank"], port)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE) as answer:
            target = next(target for target in json.load(answer) if target["type"] == "page")
        from websockets.sync.client import connect

        self.socket, self.count = connect(target["webSocketDebuggerUrl"], max_size=None, proxy=None), 0
        # What the page reported: exceptions, and whatever the browser refused (mixed content, origins, policies).
        self.complaints = []
        # What happened to the WebSockets of the page: (what, URL or message), in order.
        self.websockets = []
        # The URLs of all requests, in order.
        self.requested = []
        for domain in ("Runtime", "Log", "Network"):
            self.do(f"{domain}.enable")

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
            self.note(answer)
        if "error" in answer:
            raise NotNow(f"{method}: {answer['error']}")
        return answer["result"]

    def note(self, event):
        what = event.get("params", {})
        if event.get("method") == "Log.entryAdded" and what["entry"]["level"] == "error":
            self.complaints.append(f"{what['entry']['text']} {what['entry'].get('url', '')}")
        elif event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(what["exceptionDetails"].get("exception", {}).get("description", what)))
        elif event.get("method") == "Network.requestWillBeSent":
            self.requested.append(what["request"]["url"])
        elif event.get("method", "").startswith("Network.webSocket"):
            self.note_websocket(event["method"].removeprefix("Network.webSocket"), what)

    def note_websocket(self, event, what):
        happened = {
            "Created": lambda: ("opened", what["url"]),
            "HandshakeResponseReceived": lambda: ("answered", str(what["response"]["status"])),
            "FrameReceived": lambda: ("received", what["response"]["payloadData"]),
            "FrameError": lambda: ("failed", what["errorMessage"]),
            "Closed": lambda: ("closed", ""),
        }
        if event in happened:
            self.websockets.append(happened[event]())

    def open(self, url):
        """Opens a page, as somebody who types its address does."""
        self.websockets.clear()
        failed = self.do("Page.navigate", url=url).get("errorText")
        assert not failed, f"{url}: {failed}"

    def evaluate(self, expression):
        """What a script's expression is on the page; a promise is awaited."""
        result = self.do("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def text(self, selector):
        return self.evaluate(f"document.querySelector({json.dumps(selector)})?.textContent") or ""

    def hear(self):
        """Notes what has happened until now: an answer brings along the events before it."""
        self.do("Runtime.evaluate", expression="0")

    def requests(self, path):
        """How often the browser has asked for this path."""
        self.hear()
        return sum(urlsplit(url).path == path for url in self.requested)

    def protocol(self):
        """By which protocol the page has come."""
        return self.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol")

    def wait_for(self, what, expression, seconds=PATIENCE):
        """Waits until the expression holds on the page; in the meantime it may be on another one."""
        def holds():
            result = self.do("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
            return "exceptionDetails" not in result and result["result"].get("value")

        try:
            return wait_for(what, holds, seconds)
        except TimeoutError as error:
            shown = self.do("Runtime.evaluate", expression="location.href + '\\n' + document.body?.innerText", returnByValue=True)
            complaints = "\n".join(self.complaints)
            raise AssertionError(f"{error}; {complaints}\nThe page: {shown['result'].get('value')}") from error

    def wait_for_websocket(self, happened, having=""):
        """Waits until this has happened to a WebSocket of the page: `opened`, `answered`, `received`, `failed` or `closed`."""
        def holds():
            self.hear()
            return any(what == happened and having in detail for what, detail in self.websockets)

        try:
            wait_for(f"a WebSocket that has {happened} {having}", holds)
        except TimeoutError as error:
            raise AssertionError(f"{error}: {self.websockets}") from error

    def websocket_stays(self, url, happened="received", having=""):
        """Waits until this has happened to the page's WebSocket, and checks that it leads there and has stayed open."""
        self.wait_for_websocket(happened, having)
        opened = [detail for what, detail in self.websockets if what == "opened"]
        assert len(opened) == 1 and opened[0].startswith(url), self.websockets
        assert not [what for what, _ in self.websockets if what in ("failed", "closed")], self.websockets
