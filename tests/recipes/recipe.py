"""One recipe while it is tried: the section of the document, the tunnel, the application behind it, and what held."""

import contextlib
import os
import subprocess
import tomllib
import traceback
from urllib.parse import quote

from browser import Browser
from document import DOMAIN, Places, blocks_of
from road import Road
from stack import ROOT, Stack, run
from visitor import Visitor

PASSWORD = "correct horse battery staple"


class Failed(Exception):
    """A step of a recipe that did not go as the document says."""


def without(command, *options):
    """A command without these words of it, for a negative control."""
    for option in options:
        assert option in command, f"the command has no {option!r}"
        command = command.replace(option, "")
    return command


class Recipe:
    """What a row works with. `url` is the address of its (first) service, `port` the one that its application has here."""

    def __init__(self, program, row, section):
        self.row, self.steps, self.used = row, [], set()
        self.blocks = blocks_of(section)
        services = next((block for block in self.blocks if "[[services]]" in block.text), None)
        if not services:
            raise LookupError(f"“{section}” does not say what to put into agent.toml")
        self.used.add(services.line)
        named = tomllib.loads(services.text)["services"]
        self.stack = Stack(program, domain=DOMAIN)
        self.folder = self.stack.folder / row
        self.folder.mkdir()
        self.places = Places(named, self.folder)
        # A hash that is left out in the document is that of a password here.
        self.services = self.places.fill_in(services.text)
        if "$argon2id$…" in self.services:
            self.services = self.services.replace("$argon2id$…", self.hashed())
        self.names = [service["name"] for service in named]
        self.host = f"{self.names[0]}.{DOMAIN}"
        self.url = f"https://{self.host}"
        self.port = next(iter(self.places.ports.values()), None)
        self.road = None
        # Where `install.sh` has put the packages of pip and npm.
        self.place = ROOT / "target/recipes" / row

    def open_tunnel(self):
        """Starts server and agent with what the document puts into agent.toml."""
        self.stack.open_server(self.names)
        self.road = Road(DOMAIN, self.stack.https)
        self.stack.configure_agent(self.services)
        self.stack.connect()

    def close(self):
        self.stack.close()
        if self.road:
            self.road.close()

    # What the document says.

    def text(self, language, number=0, without=()):
        """A block of the section, by its language and its number among those, filled in; for a negative control without
        the lines that contain one of `without`."""
        block = [block for block in self.blocks if block.language == language and "[[services]]" not in block.text][number]
        self.used.add(block.line)
        text = block.text
        for words in without:
            text = remove(text, words)
        return self.places.fill_in(text)

    def unused(self):
        """The lines of the document where blocks begin that no row has looked at."""
        return [block.line for block in self.blocks if block.line not in self.used]

    # The application.

    def environment(self, more=None):
        """Its own programs first; nothing of the user's home; the road for those that are clients, too."""
        place = self.place
        path = f"{place}/venv/bin:{place}/node_modules/.bin:{os.environ['PATH']}"
        return {"PATH": path, "HOME": str(self.folder), "XDG_CONFIG_HOME": f"{self.folder}/.config", "PYTHONUNBUFFERED": "1", **(more or {})}

    def as_client(self):
        """The environment of a program that is a visitor: it finds the server, and trusts its authority."""
        ca = str(self.stack.ca)
        proxies = {name: self.road.url for name in ("https_proxy", "HTTPS_PROXY")}
        return {**proxies, "SSL_CERT_FILE": ca, "REQUESTS_CA_BUNDLE": ca, "PIP_CERT": ca, "NODE_EXTRA_CA_CERTS": ca, "CURL_CA_BUNDLE": ca}

    def start(self, command, port=True, env=None, **options):
        """Starts the application by a shell, in the folder of the recipe; waits until its port answers (`port=None`: not)."""
        port = self.port if port is True else port
        return self.stack.start(self.row, ["bash", "-euc", command], port, cwd=self.folder, env=self.environment(env), **options)

    def run(self, command, env=None, **options):
        """Runs a command to its end; what it printed."""
        everything = {**os.environ, **self.environment(env)}
        return run(["bash", "-euc", command], cwd=self.folder, env=everything, stdin=subprocess.DEVNULL, **options).decode()

    def fails(self, command, env=None, **options):
        """Runs a command that has to fail; what it said."""
        try:
            self.run(command, env, **options)
        except RuntimeError as error:
            return str(error)
        raise AssertionError(f"{command} has not failed")

    def write(self, name, text):
        """Writes a file of the application's."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    # Visitors.

    def visitor(self, origin=None):
        return Visitor(origin or self.url, self.road, self.stack.ca)

    def browser(self):
        here = f"127.0.0.1:{self.stack.https}"
        return Browser(f"MAP *.{DOMAIN}:443 {here}, MAP {DOMAIN}:443 {here}, EXCLUDE 127.0.0.1")

    def offer(self, services):
        """Writes other services into agent.toml, and starts the agent again."""
        self.stack.configure_agent(services)
        self.stack.agent.end()
        self.stack.connect()

    def hashed(self):
        """The hash of `PASSWORD`, as `adit password` makes it."""
        return run([self.stack.program, "password"], input=f"{PASSWORD}\n".encode()).decode().strip()

    def protect(self):
        """Sets a password for the service, as agent.toml has it: `ann` and `PASSWORD`."""
        self.offer(f'{self.services}\n[services.access]\nbasic_auth = {{ ann = "{self.hashed()}" }}\n')
        answer = self.visitor().get("/")
        assert answer.status_code == 401, f"without the password: {answer.status_code}"

    def signed_in(self):
        """A visitor who has given the password once, as a browser asks for it; from then on the cookie is enough."""
        visitor = self.visitor()
        answer = visitor.get("/", auth=("ann", PASSWORD))
        assert answer.status_code < 400, f"with the password: {answer.status_code}"
        assert "__Host-adit-login" in visitor.cookies, visitor.cookies
        return visitor

    def url_with_password(self, path="/"):
        """An address with the tunnel's password in it, as a browser gets it once its user has typed it."""
        return f"https://ann:{quote(PASSWORD)}@{self.host}{path}"

    # What held.

    @contextlib.contextmanager
    def step(self, words):
        """What a user would notice, in words; whatever the block raises is its failure."""
        try:
            yield
        except Exception as error:
            logs = "".join(f"\n--- {one.name} ---\n{one.said()[-3000:]}" for one in self.stack.programs)
            where = traceback.format_exc(limit=-4)
            # An assertion may say no more than its own line does.
            why = str(error) or traceback.extract_tb(error.__traceback__)[-1].line
            raise Failed(f"{words}: {type(error).__name__}: {why.splitlines()[0]}", where + logs) from error
        self.steps.append(words)


def remove(text, words):
    """The text without the lines that contain these words."""
    lines = text.splitlines(keepends=True)
    kept = [line for line in lines if words not in line]
    assert len(kept) < len(lines), f"no line of the block contains {words!r}"
    return "".join(kept)
