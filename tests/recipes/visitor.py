"""A visitor who behaves as a browser does, as far as servers can tell: cookies, origins, redirects."""

import asyncio
import re
import ssl
import threading
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
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.cookies)
        own = {"Cookie": cookies} if cookies else {}
        return WebSocket(
            urljoin(f"{self.origin}/", path).replace("https://", "wss://", 1), proxy=self.road.url,
            ssl=ssl.create_default_context(cafile=self.ca), additional_headers={**own, **(headers or {})},
            open_timeout=PATIENCE, close_timeout=PATIENCE, max_size=None, **{"origin": self.origin, **options},
        )


class WebSocket:
    """An open WebSocket. One thread alone does all with it: OpenSSL must not read and write at once, as the library's own
    synchronous client does."""

    def __init__(self, url, **options):
        from websockets.asyncio.client import connect

        async def opened():
            return await connect(url, **options)

        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        try:
            self.socket = self.do(opened())
        except BaseException:
            self.end()
            raise

    def do(self, coroutine, timeout=PATIENCE):
        """Runs it on the socket's thread, for so many seconds at most."""
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(coroutine, timeout), self.loop).result(timeout + PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.do(self.socket.close())
        finally:
            self.end()

    def end(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def send(self, message):
        self.do(self.socket.send(message))

    def recv(self, timeout=PATIENCE):
        return self.do(self.socket.recv(), timeout)

    def ping(self):
        """Asks for a pong, and waits for it."""
        async def answered():
            await (await self.socket.ping())

        self.do(answered())

    @property
    def subprotocol(self):
        return self.socket.subprotocol


def expect(answer, status=200):
    """The answer, which has to have this status."""
    assert answer.status_code == status, f"{answer.request.method} {answer.url}: {answer.status_code}, not {status}: {answer.text[:400]}"
    return answer
