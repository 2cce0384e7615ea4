"""What a browser does when the application, the agent or the server restarts, by either version of HTTP."""

import signal
import sys

from browser import Browser, to_port
from matrix import row
from rows.tls import certificate
from stack import HERE, PATIENCE, Stack, free_port, wait_for

GROUP = "Chromium, while something restarts"
NAME, SECURED = "alive", "alive-tls"

# How visitors come: the scheme, what the browser is told, and the protocol that it speaks then.
BY = {
    "HTTP/1.1": ("http", [], "http/1.1"),
    "HTTP/1.1 over TLS": ("https", ["--disable-http2"], "http/1.1"),
    "HTTP/2": ("https", [], "h2"),
}


class Alive:
    """The application, with a server and an agent of its own: those of the other groups are not restarted under them."""

    def __init__(self, program):
        # A stream of events never ends by itself, and would hold up each restart of the server for the usual 30 s.
        self.stack = Stack(program, "tunnel.drain_timeout=500ms")
        self.plain, self.tls = free_port(), free_port()
        self.cert, self.key = certificate(self.stack, SECURED, "localhost", self.stack.host(SECURED))
        self.start_application()
        self.stack.offer(NAME, f"127.0.0.1:{self.plain}")
        self.stack.offer(SECURED, f"https://localhost:{self.tls}", ca=str(self.cert))
        self.stack.open_tunnel()

    def start_application(self):
        listen = ["--insecure-bind", f"127.0.0.1:{self.plain}", "--bind", f"127.0.0.1:{self.tls}"]
        options = ["--certfile", self.cert, "--keyfile", self.key, "--graceful-timeout", "0"]
        program = [sys.executable, "-m", "hypercorn", *listen, *options, "alive:app"]
        self.application = self.stack.start("hypercorn", program, self.tls, env={"PYTHONPATH": str(HERE / "apps")})

    def stop(self, what):
        if what == "application":
            self.application.end()
        elif what == "server":
            self.stack.server.end()
        else:
            # The second signal ends the streams that are open.
            agent = self.stack.agent
            agent.process.send_signal(signal.SIGTERM)
            wait_for("an agent that ends", lambda: "finishing " in agent.said() or agent.process.poll() is not None)
            agent.process.send_signal(signal.SIGTERM)
            agent.process.wait(PATIENCE)

    def start(self, what):
        {"application": self.start_application, "server": self.stack.start_server, "agent": self.stack.connect}[what]()

    def start_all(self):
        """Starts what a row that has failed may have left stopped."""
        running = {"application": self.application, "server": self.stack.server, "agent": self.stack.agent}
        for what, program in running.items():
            if program.process.poll() is not None:
                self.start(what)


def start(stack):
    stack.alive = Alive(stack.program)
    stack.also_close.append(stack.alive.stack)


class Visit:
    """A browser at the application, this way or that."""

    def __init__(self, way, by):
        self.alive, self.is_direct = way.stack.alive, way.title == "direct"
        self.alive.start_all()
        self.scheme, self.switches, self.protocol = BY[by]
        self.name = SECURED if self.scheme == "https" else NAME
        ports = (self.alive.plain, self.alive.tls) if self.is_direct else (self.alive.stack.http, self.alive.stack.https)
        self.port = ports[self.scheme == "https"]

    def browser(self):
        return Browser(to_port(self.port), *self.switches)

    def open(self, browser):
        browser.open(f"{self.scheme}://{self.alive.stack.host(self.name)}/page")


def streams(browser):
    """The streams of which the page has got events, in order."""
    return list(dict.fromkeys(browser.text("#log").splitlines()))


for by in ("HTTP/1.1", "HTTP/2"):
    for what in ("application", "agent", "server"):

        @row(GROUP, f"an EventSource over {by}, and the {what} is away until the browser has asked twice")
        def _(way, by=by, what=what):
            visit = Visit(way, by)
            # Straight to it there is nothing else that could restart.
            what = "application" if visit.is_direct else what
            with visit.browser() as browser:
                visit.open(browser)
                wait_for("events", lambda: streams(browser))
                assert browser.protocol() == visit.protocol, browser.protocol()
                before, asked = streams(browser), browser.requests("/ticks")
                visit.alive.stop(what)
                wait_for("a browser that asks twice", lambda: browser.requests("/ticks") >= asked + 2)
                assert streams(browser) == before
                visit.alive.start(what)
                wait_for("events again", lambda: streams(browser) != before)
                assert browser.requests("/page") == 1, "the page was loaded again"
            return f"{visit.protocol}: events again, without a reload"


def ask_for_page(browser):
    """What a script gets that fetches the page: the status, the type, and whether it would reload in a browser."""
    script = """fetch("/page", { headers: { Accept: "text/html" } }).then(async (answer) =>
        [answer.status, answer.headers.get("content-type"), (await answer.text()).includes("http-equiv")])"""
    return browser.evaluate(script)


for by in BY:
    for what, heading in [("application", "Bad Gateway"), ("agent", "Service Unavailable")]:

        @row(
            GROUP,
            f"a page over {by} while the {what} is away",
            (lambda seen: "", "the server's page loads itself again until the application's is there", f"{heading}, then the page"),
        )
        def _(way, by=by, what=what, heading=heading):
            visit = Visit(way, by)
            if visit.is_direct:
                return "what the browser shows of its own"
            with visit.browser() as browser:
                visit.alive.stop(what)
                visit.open(browser)
                wait_for("the server's page", lambda: browser.text("h1") == heading)
                assert browser.protocol() == visit.protocol, browser.protocol()
                visit.alive.start(what)
                wait_for("the application's page", lambda: streams(browser))
            return f"{heading}, then the page"

    @row(
        GROUP,
        f"a script that fetches a page over {by} while the application is away",
        (lambda seen: "", "the server's page, which does not load itself again: no browser shows it", "[502, 'text/html; charset=utf-8', False]"),
    )
    def _(way, by=by):
        visit = Visit(way, by)
        if visit.is_direct:
            return "an error"
        with visit.browser() as browser:
            visit.open(browser)
            wait_for("events", lambda: streams(browser))
            visit.alive.stop("application")
            seen = ask_for_page(browser)
            visit.alive.start("application")
        return seen
