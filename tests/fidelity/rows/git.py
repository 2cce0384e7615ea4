"""git over HTTP: clone, push, fetch, with a repository of some megabytes."""

import os
import shutil
import sys

from matrix import row
from stack import HERE, free_port, run

GROUP = "git over HTTP"
NAME = "git"
ENV = {
    **os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "GIT_TERMINAL_PROMPT": "0",
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.com", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.com",
    "GIT_AUTHOR_DATE": "2001-09-09T01:46:40Z", "GIT_COMMITTER_DATE": "2001-09-09T01:46:40Z",
}


def git(*arguments, cwd):
    return run(["git", *arguments], cwd=cwd, env=ENV).decode().strip()


def start(stack):
    folder = stack.folder / "git"
    (folder / "seed").mkdir(parents=True)
    git("init", "-q", "-b", "main", cwd=folder / "seed")
    for number in range(50):
        (folder / f"seed/{number}.bin").write_bytes(bytes((number * at) % 251 for at in range(1000)) * 200)
    (folder / "seed/random").write_bytes(__import__("random").Random(1).randbytes(8_000_000))
    git("add", ".", cwd=folder / "seed")
    git("commit", "-qm", "first", cwd=folder / "seed")
    port = free_port()
    stack.start("the git server", [sys.executable, HERE / "apps/git_server.py", str(port), folder], port)
    stack.offer(NAME, f"127.0.0.1:{port}")


def work(way, protocol):
    """Clones, changes, pushes, and fetches from a second clone."""
    folder = way.stack.folder / "git" / f"{way.title}-{protocol}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    bare = folder.parent / f"{way.title}-{protocol}.git"
    shutil.rmtree(bare, ignore_errors=True)
    git("clone", "-q", "--bare", str(folder.parent / "seed"), str(bare), cwd=folder.parent)
    git("config", "http.receivepack", "true", cwd=bare)
    # git knows no way to connect elsewhere than to the URL: the name stands in a field instead.
    url = f"http://127.0.0.1:{way.port(NAME)}/{bare.name}"
    options = ["-c", f"protocol.version={protocol}", "-c", f"http.extraHeader=X-Tunnel-ID: {NAME}"]
    # A push larger than this is sent in chunks.
    options += ["-c", "http.postBuffer=65536"]
    for clone in ("one", "two"):
        git(*options, "clone", "-q", url, clone, cwd=folder)
    (folder / "one/new").write_bytes(__import__("random").Random(2).randbytes(3_000_000))
    git("add", ".", cwd=folder / "one")
    git("commit", "-qm", "second", cwd=folder / "one")
    git(*options, "push", "-q", "origin", "main", cwd=folder / "one")
    git(*options, "pull", "-q", cwd=folder / "two")
    git("fsck", "--strict", cwd=folder / "two")
    return git("log", "--format=%T %s", cwd=folder / "two")


for protocol in (0, 2):

    @row(GROUP, f"clone, push of 3 MB, pull, by version {protocol} of git's protocol")
    def _(way, protocol=protocol):
        return work(way, protocol)
