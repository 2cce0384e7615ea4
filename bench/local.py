"""The application that every contender leads to: nginx with files, and `app.py` with what nginx does not do."""

import os
import sys
from dataclasses import dataclass

from programs import HERE, WORK, Program, free_port

SIZES = {"100": 100, "100k": 100 * 1024}
WORDS = b"x"


@dataclass(frozen=True)
class Place:
    """Where things run: on loopback, or on the two ends of a link."""

    name: str = "loopback"
    # Network namespaces: the server with its visitors, and the home side. None is this one.
    visitors: str | None = None
    home: str | None = None
    # The server as agents dial it, and the home as the server sees it.
    server: str = "127.0.0.1"
    local: str = "127.0.0.1"


class Local:
    """nginx and the app of one place; two ports."""

    def __init__(self, place, bulk):
        """`bulk` is the size of the large file in bytes."""
        self.place, self.bulk = place, bulk
        self.files, self.app = free_port(), free_port()
        self.folder = WORK / "files"
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, size in SIZES.items():
            (self.folder / name).write_bytes(WORDS * size)
        # Sparse: it costs no disk, and is read from memory.
        self.bulk_file = self.folder / "bulk"
        with open(self.bulk_file, "wb") as file:
            file.truncate(bulk)
        # Eight of these are as much.
        with open(self.folder / "part", "wb") as file:
            file.truncate(bulk // 8)
        addresses = "".join(f"listen {address}:{self.files} backlog=4096;" for address in {"127.0.0.1", place.local})
        config = nginx_config(f"local-{place.name}", f"""
            server {{
                {addresses}
                root {self.folder};
                default_type application/octet-stream;
            }}""")
        self.programs = [
            Program(f"local nginx {place.name}", nginx(config), place.home),
            Program(f"local app {place.name}", [sys.executable, HERE / "app.py", "0.0.0.0", self.app], place.home),
        ]
        for program, port in zip(self.programs, (self.files, self.app)):
            program.wait_for_port(port)

    def close(self):
        for program in self.programs:
            program.end()


def nginx(config):
    return ["nginx", "-e", "stderr", "-c", config, "-p", config.parent]


def nginx_config(name, servers):
    """Writes a configuration of an nginx that stays in the foreground and keeps connections; its path."""
    folder = WORK / "run" / name
    folder.mkdir(parents=True, exist_ok=True)
    # What is not compiled in needs no folder; Debian's nginx wants all of these to be writable.
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    path = folder / "nginx.conf"
    path.write_text(f"""
        daemon off; worker_processes auto; worker_rlimit_nofile 16384; pid {folder}/pid; error_log stderr;
        {"user root;" if os.geteuid() == 0 else ""}
        events {{ worker_connections 8192; }}
        http {{
            access_log off; sendfile on; tcp_nopush off; keepalive_requests 100000000; keepalive_timeout 75s;
            open_file_cache max=100; client_max_body_size 0; {temporary}
            {servers}
        }}""")
    return path
