"""A browser: a page with an EventSource, a WebSocket and a fetch, as people would see it."""

from browser import Browser, to_port
from matrix import row
from rows import asgi, https
from stack import wait_for

GROUP = "Chromium"
NAME = "uvicorn"


def start(stack):
    asgi.offer(stack, NAME)
    https.start(stack)


def page(way, scheme, port, name=NAME):
    """What the page has written down when everything on it has happened."""
    with Browser(to_port(port)) as browser:
        browser.open(f"{scheme}://{way.host(name)}/page")
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
