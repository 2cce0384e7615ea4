"""Redirects, cookies and links, followed to their end as a browser does it: curl with its cookies, and Chromium."""

import json
import re
import sys
from urllib.parse import urlsplit

from browser import Browser, to_port
from matrix import row
from stack import DOMAIN, HERE, free_port, run, wait_for

GROUP = "followed to the end"
PLAIN, LOCAL = "travel", "travel-local"
# Each with the address in it, if that is the application's own.
TARGETS = {
    "relative": None, "absolute path": None, "its host": None, "no scheme": None, "its host and port": None,
    "its own address": "127.0.0.1", "localhost": "localhost",
}


def start(stack):
    port = free_port()
    program = ["-m", "uvicorn", "--app-dir", HERE / "apps", "--port", str(port), "--log-level", "warning", "travel:app"]
    # What uvicorn itself makes of X-Forwarded-* is not what is tested here.
    stack.start("uvicorn", [sys.executable, *program, "--no-proxy-headers"], port)
    stack.offer(PLAIN, f"127.0.0.1:{port}")
    stack.offer(LOCAL, f"127.0.0.1:{port}", host_header="local")


class Route:
    """Where visitors find the application: by its host or below a path, over http or https."""

    def __init__(self, way, name, scheme, by_path, own=None):
        """Straight to it, a visitor knows it by its address, if it names that itself (`own`)."""
        self.is_direct = way.title == "direct"
        # The application itself has neither TLS nor a path.
        self.scheme = "http" if self.is_direct else scheme
        self.prefix = f"/{name}" if by_path and not self.is_direct else ""
        self.host = DOMAIN if self.prefix else own if own and self.is_direct else way.host(name)
        self.port = way.tls_port(name) if self.scheme == "https" else way.port(name)
        self.origin = f"{self.scheme}://{self.host}:{self.port}"

    def url(self, path):
        return f"{self.origin}{self.prefix}{path}"

    def curl(self, path, *options):
        """Follows, and gives the last body. It must have come from where visitors are, and nowhere else."""
        connect = ["--connect-to", f"{self.host}:{self.port}:127.0.0.1:{self.port}", "--insecure", "--max-time", "20"]
        jar = ["--cookie", "", "--write-out", "\n%{url_effective}"]
        *body, end = run(["curl", "--silent", "--show-error", "--location", *connect, *jar, *options, self.url(path)]).decode().split("\n")
        assert end.startswith(self.url("/")), f"it leads to {end}"
        return "\n".join(body)


ROUTES = [(name, scheme, by_path) for name in (PLAIN, LOCAL) for scheme in ("http", "https") for by_path in (False, True)]


def title(name, scheme, by_path):
    return ", ".join(filter(None, [scheme, "a path route" if by_path else "", "host_header = local" if name == LOCAL else ""]))


# Those with `Secure`: over http they come back to the machine's own addresses at most.
SECURE = ["__Host-b=1", "__Secure-a=1", "secure=1"]

for name, scheme, by_path in ROUTES:

    @row(GROUP, f"{title(name, scheme, by_path)}: redirects of all kinds, with cookies")
    def _(way, name=name, scheme=scheme, by_path=by_path):
        seen = {}
        for target, own in TARGETS.items():
            end = json.loads(Route(way, name, scheme, by_path, own).curl(f"/start?to={target.replace(' ', '+')}"))
            if way.title == "tunnelled":
                secure = [cookie for cookie in end["cookies"] if cookie in SECURE]
                assert secure == (SECURE if scheme == "https" else []), end
            seen[target] = [end["method"], [cookie for cookie in end["cookies"] if cookie not in SECURE]]
        cookies = {len(cookies) for _, cookies in seen.values()}
        return {"short": f"{len(seen)} arrive, with {' or '.join(map(str, cookies))} cookies", **seen}

    @row(GROUP, f"{title(name, scheme, by_path)}: a form that is sent on with its body (307)")
    def _(way, name=name, scheme=scheme, by_path=by_path):
        seen = json.loads(Route(way, name, scheme, by_path, "127.0.0.1").curl("/start?status=307&to=its+own+address", "--data", "a=1"))
        return f"{seen['method']} {seen['body']}"

    @row(GROUP, f"{title(name, scheme, by_path)}: pages that lead to each other by Link")
    def _(way, name=name, scheme=scheme, by_path=by_path):
        route, url, seen = Route(way, name, scheme, by_path), "/pages", []
        while url:
            head, _, body = route.curl(url, "--include").partition("\r\n\r\n")
            seen.append(body)
            found = re.search(r"^link: <(.*)>; rel=\"next\"", head, re.MULTILINE | re.IGNORECASE)
            if found and not route.is_direct:
                assert found[1].startswith(route.url("/")), found[1]
            path = found and urlsplit(found[1])
            url = path and f"{path.path.removeprefix(route.prefix)}?{path.query}"
        return ", ".join(seen)

    @row(GROUP, f"Chromium, {title(name, scheme, by_path)}: a form, a redirect, cookies, and a page that refreshes")
    def _(way, name=name, scheme=scheme, by_path=by_path):
        route = Route(way, name, scheme, by_path, "127.0.0.1")

        def arrived():
            # In one step: the page may change between two.
            place, text = browser.evaluate("[location.href, document.body?.textContent]")
            return text if place == route.url("/end") else None

        with Browser(to_port(route.port)) as browser:
            browser.open(route.url("/form"))
            wait_for("the form", lambda: browser.evaluate("document.forms.length"))
            browser.evaluate("document.forms[0].submit()")
            by_form = json.loads(wait_for("the end of the redirect", arrived))
            browser.open(route.url("/start?by=Refresh&to=its+own+address"))
            by_refresh = json.loads(wait_for("the end of the refresh", arrived))
        cookies = [[cookie for cookie in seen["cookies"] if cookie not in SECURE] for seen in (by_form, by_refresh)]
        return {"short": f"{by_form['method']} twice, with {len(cookies[0])} cookies", "cookies": cookies}


for scheme in ("http", "https"):

    @row(GROUP, f"Chromium, {scheme}: a script of another site reads what the application shares with its origin (CORS)")
    def _(way, scheme=scheme):
        page, other = (Route(way, name, scheme, False) for name in (PLAIN, LOCAL))
        with Browser(to_port(page.port)) as browser:
            browser.open(page.url("/form"))
            wait_for("the page", lambda: browser.evaluate("document.forms.length"))
            return browser.evaluate(f"fetch('{other.url('/shared')}', {{credentials: 'include'}}).then((answer) => answer.text())")
