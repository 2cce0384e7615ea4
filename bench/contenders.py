"""Whom a run compares: each starts its server and agent in a place and says where visitors find the application."""

import re
import shutil
import subprocess
import time
from dataclasses import dataclass, field

from local import nginx, nginx_config
from programs import ROOT, WORK, Failed, Program, free_port, load, run

DOMAIN = "bench.test"


@dataclass
class Way:
    """Where visitors go: an address, and the Host that they name there."""

    address: str
    port: int
    host: str = "localhost"

    def words(self):
        return [self.address, self.port, self.host]


@dataclass
class Contender:
    """One of the compared. Sub-classes fill in the rest in `start`."""

    place: object
    local: object
    server: list = field(default_factory=list)
    agent: list = field(default_factory=list)
    name = title = version_of = None
    # Whether it takes part in a quick run.
    quick = True

    @classmethod
    def available(cls):
        return shutil.which(cls.version_of[0]) is not None

    @classmethod
    def version(cls):
        """The number in what it says about itself; rathole says when it was built, too."""
        said = subprocess.run(cls.version_of, capture_output=True)
        lines = (said.stdout + said.stderr).decode(errors="replace").splitlines()
        found = re.search(r"\d+\.\d+(\.\d+)?", "\n".join(line for line in lines if "Timestamp" not in line))
        return found.group(0) if found else "?"

    @property
    def folder(self):
        folder = WORK / "run" / f"{self.name}-{self.place.name}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def programs(self):
        return self.server + self.agent

    def at_server(self, command, port, **options):
        """Starts something beside the visitors, and waits until it listens."""
        program = Program(f"{self.name} server {self.place.name}", command, self.place.visitors, **options)
        self.server.append(program)
        return program.wait_for_port(port)

    def at_home(self, command, name="agent", **options):
        """Starts something beside the application."""
        self.agent.append(Program(f"{self.name} {name} {self.place.name}", command, self.place.home, **options))
        return self.agent[-1]

    def check(self):
        """A GET and a POST, byte for byte, as soon as both get through."""
        end = time.monotonic() + 15
        while True:
            try:
                app = ["--app-port", self.app.port, "--app-host", self.app.host]
                return load(self.place, "check", *self.files.words(), *app)
            except Failed:
                for program in self.programs():
                    program.wait("life", lambda: True)
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def restart(self):
        """A fresh one, for figures that depend on the past."""
        self.close()
        self.start()
        self.check()

    def close(self):
        for program in reversed(self.programs()):
            program.end()
        self.server, self.agent = [], []


class Direct(Contender):
    name, title, version_of = "direct", "nginx itself, no tunnel", ["nginx", "-v"]

    def start(self):
        self.files, self.app = Way(self.place.local, self.local.files), Way(self.place.local, self.local.app)


class NginxProxy(Contender):
    name, title, version_of = "nginx", "nginx as a reverse proxy, no tunnel, no TLS", ["nginx", "-v"]

    def start(self):
        self.files, self.app = Way("127.0.0.1", free_port()), Way("127.0.0.1", free_port())
        servers = "map $http_upgrade $onward { default upgrade; '' ''; }"
        for way, port in ((self.files, self.local.files), (self.app, self.local.app)):
            servers += f"""
                upstream u{port} {{ server {self.place.local}:{port}; keepalive 512; keepalive_requests 100000000; }}
                server {{
                    listen 127.0.0.1:{way.port} backlog=4096;
                    location / {{
                        proxy_pass http://u{port}; proxy_http_version 1.1; proxy_request_buffering off;
                        proxy_max_temp_file_size 0; proxy_read_timeout 300s;
                        proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $onward;
                    }}
                }}"""
        config = nginx_config(f"proxy-{self.place.name}", servers)
        self.at_server(nginx(config), self.app.port)


class Haproxy(Contender):
    name, title, version_of = "haproxy", "haproxy as a reverse proxy, no tunnel, no TLS", ["haproxy", "-v"]
    quick = False

    def start(self):
        self.files, self.app = Way("127.0.0.1", free_port()), Way("127.0.0.1", free_port())
        text = """
            global
                maxconn 4096
            defaults
                mode http
                timeout connect 5s
                timeout client 300s
                timeout server 300s
                http-reuse always
            """
        for name, way, port in (("files", self.files, self.local.files), ("app", self.app, self.local.app)):
            text += f"""
            listen {name}
                bind 127.0.0.1:{way.port} backlog 4096
                server local {self.place.local}:{port}
            """
        (self.folder / "haproxy.cfg").write_text(text + "\n")
        self.at_server(["haproxy", "-db", "-f", self.folder / "haproxy.cfg"], self.app.port)


class Rathole(Contender):
    name, title, version_of = "rathole", "rathole, TCP (carries bytes, no TLS)", ["rathole", "--version"]
    transport = ('type = "tcp"', 'type = "tcp"')

    def start(self):
        self.files, self.app = Way("127.0.0.1", free_port()), Way("127.0.0.1", free_port())
        control = free_port()
        at_server, at_home = self.transports()
        meet, secret = f"{self.place.server}:{control}", 'default_token = "bench"'
        server = f'[server]\nbind_addr = "{meet}"\n{secret}\n[server.transport]\n{at_server}\n'
        agent = f'[client]\nremote_addr = "{meet}"\n{secret}\n[client.transport]\n{at_home}\n'
        for name, way, port in (("files", self.files, self.local.files), ("app", self.app, self.local.app)):
            server += f'[server.services.{name}]\nbind_addr = "127.0.0.1:{way.port}"\n'
            agent += f'[client.services.{name}]\nlocal_addr = "127.0.0.1:{port}"\n'
        (self.folder / "server.toml").write_text(server)
        (self.folder / "client.toml").write_text(agent)
        self.at_server(["rathole", "--server", self.folder / "server.toml"], control, env={"RUST_LOG": "error"})
        self.at_home(["rathole", "--client", self.folder / "client.toml"], env={"RUST_LOG": "error"})

    def transports(self):
        return self.transport


class RatholeTls(Rathole):
    name, title = "rathole-tls", "rathole, TLS (carries bytes)"

    def transports(self):
        folder = self.folder
        run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "7",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
             "-keyout", folder / "key.pem", "-out", folder / "cert.pem"])
        run(["openssl", "pkcs12", "-export", "-inkey", folder / "key.pem", "-in", folder / "cert.pem",
             "-passout", "pass:bench", "-out", folder / "identity.pfx"])
        return (
            f'type = "tls"\n[server.transport.tls]\npkcs12 = "{folder}/identity.pfx"\npkcs12_password = "bench"',
            f'type = "tls"\n[client.transport.tls]\ntrusted_root = "{folder}/cert.pem"\nhostname = "localhost"',
        )


class Bore(Contender):
    name, title, version_of = "bore", "bore (carries bytes, no TLS)", ["bore", "--version"]
    quick = False

    def start(self):
        # The control port is fixed in bore.
        self.at_server(["bore", "server", "--bind-addr", self.place.server, "--bind-tunnels", "127.0.0.1"], 7835)
        self.files, self.app = Way("127.0.0.1", free_port()), Way("127.0.0.1", free_port())
        for name, way, port in (("files", self.files, self.local.files), ("app", self.app, self.local.app)):
            command = ["bore", "local", port, "--local-host", "127.0.0.1", "--to", self.place.server, "--port", way.port]
            self.at_home(command, name)


class Frp(Contender):
    name, title, version_of = "frp", "frp, TCP proxies (TLS between its ends)", ["frps", "--version"]
    quick = False

    def start(self):
        self.files, self.app = Way("127.0.0.1", free_port()), Way("127.0.0.1", free_port())
        control = free_port()
        (self.folder / "frps.toml").write_text(
            f'bindAddr = "{self.place.server}"\nbindPort = {control}\nproxyBindAddr = "127.0.0.1"\nlog.level = "error"\n')
        agent = f'serverAddr = "{self.place.server}"\nserverPort = {control}\nlog.level = "error"\n'
        for name, way, port in (("files", self.files, self.local.files), ("app", self.app, self.local.app)):
            agent += f'[[proxies]]\nname = "{name}"\ntype = "tcp"\nlocalIP = "127.0.0.1"\n'
            agent += f"localPort = {port}\nremotePort = {way.port}\n"
        (self.folder / "frpc.toml").write_text(agent)
        self.at_server(["frps", "-c", self.folder / "frps.toml"], control)
        self.at_home(["frpc", "-c", self.folder / "frpc.toml"])


class Adit(Contender):
    name, title = "adit", "**adit**"
    program = ROOT / "target/release/adit"
    version_of = [str(program), "--version"]

    @classmethod
    def available(cls):
        return cls.program.exists()

    def start(self):
        folder, tunnel, http = self.folder, free_port(), free_port()
        self.files = Way("127.0.0.1", http, f"files.{DOMAIN}")
        self.app = Way("127.0.0.1", http, f"app.{DOMAIN}")
        (folder / "clients.toml").unlink(missing_ok=True)
        token = run([self.program, "token", "new", "bench", "--clients", folder / "clients.toml"]).strip()
        (folder / "token").write_text(token)
        (folder / "token").chmod(0o600)
        clients = (folder / "clients.toml").read_text()
        names = '[clients.bench]\nnames = ["files", "app"]\n'
        (folder / "clients.toml").write_text(clients.replace("[clients.bench]\n", names))
        (folder / "server.toml").write_text(f"""
            clients = "clients.toml"
            [tunnel]
            listen = "{self.place.server}:{tunnel}"
            [tunnel.tls]
            dir = "certs"
            names = ["{self.place.server}"]
            [public]
            domain = "{DOMAIN}"
            http = "127.0.0.1:{http}"
            {LIMITS}
            """)
        services = "".join(
            f'[[services]]\nname = "{name}"\nlocal = "http://127.0.0.1:{port}"\n'
            for name, port in (("files", self.local.files), ("app", self.local.app)))
        (folder / "agent.toml").write_text(
            f'servers = ["{self.place.server}:{tunnel}"]\nclient_id = "bench"\ntoken_file = "token"\n'
            f'ca = "certs/ca.pem"\nmax_streams = 4096\n{services}')
        # It listens before it has made its certificate; what it prints comes last.
        self.at_server([self.program, "server", "--config", folder / "server.toml"], http).wait_for_words("fingerprint")
        self.at_home([self.program, "agent", "--config", folder / "agent.toml"]).wait_for_words("connected")


# One address is all visitors here; its limits would be what is measured. 2,000 WebSockets are held on one lane.
LIMITS = """
            [limits.per_ip]
            requests_per_second = 1000000
            burst = 1000000
            logins_per_minute = 1000000
            connections = 16384
            streams = 16384
            [limits.per_tunnel]
            streams_per_lane = 4000
"""

ALL = (Direct, NginxProxy, Haproxy, Adit, RatholeTls, Rathole, Bore, Frp)
