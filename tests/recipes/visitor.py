"""A visitor who behaves as a browser does, as far as servers can tell: cookies, origins, redirects."""

import re
import ssl
from urllib.parse import urljoin

import requests

from stack import PATIENCE

# What a page loads or sends to. A plain link may lead to `http`.
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|audio|video|embed|form)\b[^>]*\s(?:src|action)=["']?(http://[^"'\s>]+)"""
    r"""|<link\b[^>]*\bhref=["']?(http://[^"'\s>]+)""",
    re.IGNORECASE,
)


def mixed_content(html):
    """The addresses that a browser would not load on a page of HTTPS."""
    return [one or other for one, other in LOADED.findall(html)]


class Visitor(requests.Session):
    """Asks below one origin. A redirect that leaves it is an error, and so is a page with mixed content."""

    def __init__(self, origin, road, ca):
        super().__init__()
        self.origin, self.road, self.ca = origin, road, str(ca)
        self.trust_env = False
        self.proxies = {"https": road.url}
        self.verify = self.ca
        self.headers["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
        self.headers["Accept"] = "text/html,application/json;q=0.9,*/*;q=0.8"
        self.page = None

    def request(self, method, url, headers=None, **options):
        own = {"Sec-Fetch-Site": "same-origin" if self.page else "none", "Sec-Fetch-Mode": "navigate" if method == "GET" else "cors"}
        if self.page:
            own["Referer"] = self.page
        if method not in ("GET", "HEAD"):
            own["Origin"] = self.origin
        options.setdefault("timeout", PATIENCE)
        answer = super().request(method, urljoin(f"{self.origin}/", url), headers={**own, **(headers or {})}, **options)
        if answer.headers.get("Content-Type", "").startswith("text/html") and not options.get("stream"):
            self.page = answer.url
            if found := mixed_content(answer.text):
                raise AssertionError(f"{answer.url} has mixed content: {found}")
        return answer

    def get_redirect_target(self, answer):
        target = super().get_redirect_target(answer)
        if target and not f"{urljoin(answer.url, target)}/".startswith(f"{self.origin}/"):
            raise AssertionError(f"{answer.url} redirects to {target}")
        return target

    def websocket(self, path, headers=None, **options):
        """An open WebSocket, with the origin and the cookies of the page."""
        from websockets.sync.client import connect

        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.cookies)
        own = {"Cookie": cookies} if cookies else {}
        return connect(
            urljoin(f"{self.origin}/", path).replace("https://", "wss://", 1), origin=self.origin, proxy=self.road.url,
            ssl=ssl.create_default_context(cafile=self.ca), additional_headers={**own, **(headers or {})},
            open_timeout=PATIENCE, close_timeout=PATIENCE, max_size=None, **options,
        )


def expect(answer, status=200):
    """The answer, which has to have this status."""
    assert answer.status_code == status, f"{answer.request.method} {answer.url}: {answer.status_code}, not {status}: {answer.text[:400]}"
    return answer
