"""Follows /acceptance/operate.md: runs its `sh` blocks one after another in one shell, and looks after each at what has
come of it. While the server is up and visitors ask, it runs the commands of /acceptance/runbook.md, too. Runs in the root file
system that run.sh has prepared.
"""

import json
import pathlib
import re
import signal
import ssl
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

from basics import AUTHORITY, DOMAIN, HERE, HOME, PATIENCE, SITE, NotTrue, explained, none_of, run, until
from held import Newcomer
from runbook import follow_runbook

COLOURS = sys.argv[1:] == ["always"]


class Table:
    """A line for each step: whether it came true, what it was, how long it took."""

    def __init__(self):
        self.failed = False

    def section(self, title):
        print(f"\n\033[1m{title}\033[0m" if COLOURS else f"\n{title}", flush=True)

    def step(self, what, work):
        began = time.monotonic()
        try:
            said = work()
            result, colour = "ok", 32
        except (NotTrue, OSError, subprocess.SubprocessError) as error:
            said, result, colour, self.failed = explained(error), "FAILED", 31, True
        result = f"\033[{colour}m{result:<6}\033[0m" if COLOURS else f"{result:<6}"
        print(f"  {result} {time.monotonic() - began:6.1f} s  {what}{f': {said}' if said else ''}", flush=True)
        if self.failed:
            print(last_words(), flush=True)
            raise SystemExit(1)


class Shell:
    """One bash for all blocks, so that a variable of one is there in the next. A command that fails fails its block."""

    def __init__(self):
        self.output = open(HERE / "output", "ab+")
        self.bash = subprocess.Popen(["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.output, cwd=HOME, text=True)
        self.bash.stdin.write("set -o pipefail -o errtrace; trap 'failed=\"$failed $BASH_COMMAND\"' ERR\n")

    def run(self, block):
        file = HERE / "block"
        file.write_text(block)
        self.bash.stdin.write(f"failed=; {{ . {file}; }} >>{HERE}/output 2>&1; echo \"@$failed\"\n")
        self.bash.stdin.flush()
        answer = self.bash.stdout.readline()
        if answer != "@\n":
            raise NotTrue(f"failed: {answer[1:].strip()}")


def last_words():
    """The ends of what the guide's commands, the programs of the units and the server's log have said."""
    places = [HERE / "output", *pathlib.Path("/run/units").glob("*/log"), *pathlib.Path("/var/log/adit").glob("server.log")]
    said = {place: place.read_text(errors="replace").splitlines() for place in places if place.exists()}
    lines = {place: [line for line in lines if " request " not in line][-20:] for place, lines in said.items()}
    return "\n".join(f"--- {place}\n" + "\n".join(text) for place, text in lines.items())


def blocks():
    """(section, number of the block in it, the block), in order."""
    text = (HERE / "operate.md").read_text()
    for part in re.split(r"^## ", text, flags=re.M)[1:]:
        title = part.splitlines()[0]
        for number, block in enumerate(re.findall(r"^```sh\n(.*?)^```", part, flags=re.M | re.S), 1):
            yield title, number, block


# What the operator brings along: names that lead here, an authority that the system trusts, a certificate by it.


def prepare():
    hosts = " ".join([DOMAIN, SITE, f"bob.{DOMAIN}"])
    pathlib.Path("/etc/hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n127.0.0.1 {hosts}\n")
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", "/CN=An authority", "-keyout", HERE / "authority.key", "-out", AUTHORITY)
    pathlib.Path("/usr/local/share/ca-certificates/authority.crt").write_bytes(AUTHORITY.read_bytes())
    run("update-ca-certificates")
    certificate(1)


def certificate(serial):
    (HERE / "names").write_text(f"subjectAltName=DNS:{DOMAIN},DNS:*.{DOMAIN}\n")
    run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={DOMAIN}",
        "-keyout", HOME / "privkey.pem", "-out", HERE / "request")
    run("openssl", "x509", "-req", "-in", HERE / "request", "-CA", AUTHORITY, "-CAkey", HERE / "authority.key", "-days", "60",
        "-set_serial", str(serial), "-extfile", HERE / "names", "-out", HOME / "fullchain.pem")


def serial_shown():
    trust = ssl.create_default_context(cafile=AUTHORITY)
    with socket.create_connection((SITE, 443), timeout=10) as plain, trust.wrap_socket(plain, server_hostname=SITE) as secure:
        return int(secure.getpeercert()["serialNumber"], 16)


# What has come of each block.


def prometheus(path, **query):
    url = f"http://127.0.0.1:9090{path}?{urllib.parse.urlencode(query)}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)["data"]
    except OSError:
        return None


def value(query):
    found = (prometheus("/api/v1/query", query=query) or {"result": []})["result"]
    return float(found[0]["value"][1]) if len(found) == 1 else None


def alerts():
    found = prometheus("/api/v1/alerts")
    return None if found is None else {alert["labels"]["alertname"] for alert in found["alerts"] if alert["state"] == "firing"}


def installed():
    return run("adit", "--version").strip() + ", " + run("dpkg-query", "-W", "-f", "${Version} ${Status}", "adit")


def configured():
    token = HOME / "alice.token"
    if token.stat().st_mode & 0o77 or not token.read_text().startswith("adit_"):
        raise NotTrue("the token's file is not what it should be")
    owner = pathlib.Path("/etc/adit/clients.toml").owner()
    if owner != "adit":
        raise NotTrue(f"the clients file belongs to {owner}")
    return "the clients file belongs to adit, the token is nobody else's to read"


def started():
    told = pathlib.Path("/run/units/adit-server/told").read_text()
    if "READY=1" not in told:
        raise NotTrue(f"it has said {told!r}")
    pid = json.loads(pathlib.Path("/run/units/adit-server/main").read_text())["pid"]
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    rights = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    uid, effective = rights["Uid"].split()[0], int(rights["CapEff"], 16)
    # CAP_NET_BIND_SERVICE is number 10.
    if uid == "0" or effective != 1 << 10 or int(rights["CapBnd"], 16) != 1 << 10:
        raise NotTrue(f"it runs as {uid} with the capabilities {effective:x}, bound by {rights['CapBnd']}")
    return f"READY=1, as user {uid}, with CAP_NET_BIND_SERVICE alone"


def served():
    body = run("curl", "-fsS", f"https://{SITE}/")
    if body != "Hello from home\n":
        raise NotTrue(f"it shows {body!r}")
    redirect = run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", f"http://{SITE}/")
    if redirect != f"308 https://{SITE}/":
        raise NotTrue(f"plain HTTP gets {redirect}")
    if serial_shown() != 1:
        raise NotTrue("it shows another certificate")
    return "the tenant's page by the certificate from the files; plain HTTP is redirected"


def smaller_logs():
    """Nobody waits until the visitors of this test have filled 100 MiB: a file is full after one."""
    file = pathlib.Path("/etc/adit/server.toml")
    file.write_text(file.read_text().replace('server.log" ', 'server.log"\nfile_size = 1048576 ', 1))
    if "file_size = 1048576" not in file.read_text():
        raise NotTrue("the guide names no file for the log")
    return "a file of the log is full after 1 MiB"


def scraped():
    until("the target to be up", lambda: value('up{job="adit"}') == 1)
    return "up is 1"


def hurry():
    """Nobody waits ten minutes: every `for:` of the installed rules is a second, and Prometheus looks each second."""
    for file, old, new in (("adit-alerts.yml", r"^( *for:) .*", r"\1 1s"), ("prometheus.yml", r"_interval: 15s", "_interval: 1s")):
        path = pathlib.Path("/etc/prometheus", file)
        path.write_text(re.sub(old, new, path.read_text(), flags=re.M))
    run("systemctl", "reload", "prometheus")
    until("the alerts to be looked at", lambda: alerts() == set())
    until("alice to be seen", lambda: value('adit_client_tunnels{client="alice"}') == 1)
    return "no alert fires"


def fires():
    until("AditClientOffline to fire", lambda: "AditClientOffline" in (alerts() or ()))
    return "AditClientOffline fires"


def resolves():
    until("AditClientOffline to be over", lambda: alerts() == set())
    return "AditClientOffline is over, and no other fires"


def rotated():
    logs = pathlib.Path("/var/log/adit")
    until("an earlier log file", (logs / "server.log.1").exists)
    sizes = {path.name: path.stat().st_size for path in sorted(logs.iterdir())}
    if not 900_000 < sizes["server.log.1"] <= 1_100_000:
        raise NotTrue(f"sizes {sizes}")
    lines = (logs / "server.log.1").read_text().splitlines()
    if not any(SITE.split(".")[0] in line and "request" in line for line in lines):
        raise NotTrue("no line for a request")
    return ", ".join(f"{name} {size} bytes" for name, size in sizes.items())


def replaced():
    until("the new certificate", lambda: serial_shown() == 2)
    return "new connections see the new certificate"


def let_in():
    until("bob's name to be known", lambda: run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"https://bob.{DOMAIN}/") == "503")
    return "bob's name is known: 503 instead of 404"


def reloaded():
    log, line = pathlib.Path("/var/log/adit/server.log"), "reloaded; changed: limits.per_ip.burst, log.level"
    until("the server to say so", lambda: line in log.read_text() + log.with_name("server.log.1").read_text())
    return "the log says so"


def sent_away():
    until("bob's name to be unknown", lambda: run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"https://bob.{DOMAIN}/") == "404")
    return "404 again"


def backed_up():
    kept = run("tar", "-tzf", HOME / "adit-backup.tar.gz")
    wanted = ["etc/adit/server.toml", "etc/adit/clients.toml", "etc/adit/tls/privkey.pem", "var/lib/adit/certs/ca.pem"]
    if missing := [name for name in wanted if name not in kept]:
        raise NotTrue(f"not in it: {missing}")
    return f"{len(kept.split())} entries"


def refused_without_sockets():
    newcomer = Newcomer()
    run("systemctl", "restart", "adit-server")
    return newcomer.expect("refused")


def back():
    until("the site", lambda: run("curl", "-s", f"https://{SITE}/") == "Hello from home\n")
    pid = json.loads(pathlib.Path("/run/units/adit-server/main").read_text())["pid"]
    rights = re.search(r"^CapBnd:\t(\w+)$", pathlib.Path(f"/proc/{pid}/status").read_text(), flags=re.M)[1]
    if int(rights, 16):
        raise NotTrue(f"its capabilities are bound by {rights}")
    return "the site is back, by a server without any capability"


def lost():
    run("systemctl", "stop", "adit-server")
    for place in ("etc/adit", "var/lib/adit"):
        pathlib.Path("/", place).rename(HERE / place.replace("/", "-"))
    return "the server is stopped, and its folders are gone"


def restored():
    until("the site", lambda: run("curl", "-s", f"https://{SITE}/") == "Hello from home\n")
    return "the site is back; its agent knows the server"


def processes():
    return {path.parent.name: json.loads(path.read_text())["pid"] for path in pathlib.Path("/run/units").glob("adit-*/main")}


class Upgrade:
    """A package of the same with a higher version in the place of the one that is installed."""

    def prepare(self):
        # By this maintainers' scripts see that systemd runs.
        pathlib.Path("/run/systemd/system").mkdir(parents=True)
        (package,) = HOME.glob("adit_*.deb")
        run("dpkg-deb", "-R", package, HERE / "newer")
        control = HERE / "newer/DEBIAN/control"
        control.write_text(re.sub(r"^(Version: .*)$", r"\1+newer", control.read_text(), flags=re.M))
        package.unlink()
        run("dpkg-deb", "-Zgzip", "-z1", "-b", HERE / "newer", package)
        self.before = processes()

    def done(self):
        version = run("dpkg-query", "-W", "-f", "${Version}", "adit")
        if not version.endswith("+newer"):
            raise NotTrue(f"{version} is installed")
        until("the site", lambda: run("curl", "-s", f"https://{SITE}/") == "Hello from home\n")
        now = processes()
        stayed = {unit for unit, pid in self.before.items() if now.get(unit) == pid}
        if stayed != {"adit-server.socket"}:
            raise NotTrue(f"not restarted: {sorted(stayed)}")
        return f"{version}; server and agent are other processes, the socket is still open"


UPGRADE = Upgrade()


def stopped():
    for unit in ("adit-agent", "adit-server"):
        code, told = ((pathlib.Path("/run/units") / unit / name).read_text() for name in ("code", "told"))
        if code != "0" or "STOPPING=1" not in told:
            raise NotTrue(f"{unit} has ended with {code}")
    return "both said STOPPING=1 and ended with 0"


CHECKS = {
    (1, 1): [("the package is installed", installed)],
    (2, 1): [("a smaller log, for section 6", smaller_logs)],
    (2, 3): [("who owns what", configured)],
    (3, 1): [("the unit's program", started)],
    (4, 3): [("the site over HTTPS", served)],
    (5, 1): [("Prometheus reads the page", scraped), ("rules without their patience", hurry)],
    (5, 2): [("the alert", fires)],
    (5, 3): [("the alert", resolves)],
    (6, 1): [("the log makes room", rotated)],
    (7, 1): [("the certificate", replaced)],
    (8, 1): [("a second tenant, taken over live", let_in)],
    (8, 2): [("limits and level of the log, taken over live", reloaded)],
    (8, 3): [("and away again", sent_away)],
    (9, 1): [("what is kept", backed_up), ("another machine, or this one after an accident", lost)],
    (9, 2): [("what has come back", restored)],
    (10, 1): [("sockets that systemd holds", back)],
    (11, 1): [("what runs", UPGRADE.done)],
    (12, 1): [("how they stopped", stopped)],
}


def main():
    table, shell, load, seen, checks = Table(), Shell(), None, None, dict(CHECKS)
    table.section("Before the guide: names in /etc/hosts, an authority, a certificate")
    table.step("prepared", prepare)
    for title, number, block in blocks():
        section = int(title.split(".")[0])
        if title != seen:
            seen = title
            if section == 9:
                follow_runbook(table, shell)
                table.step("what the visitors got since the logs", lambda: end(load))
            table.section(title)
            if section == 6:
                load = subprocess.Popen([sys.executable, HERE / "load.py", SITE, AUTHORITY], stdout=subprocess.PIPE, text=True)
                table.step("visitors begin to ask without a pause", lambda: load.stdout.readline() and None)
            if section == 7:
                table.step("somebody has renewed the certificate", lambda: certificate(2))
            if section == 10:
                table.step("without the socket unit, a visitor that comes during a restart", refused_without_sockets)
            if section == 11:
                table.step("a newer package is there", UPGRADE.prepare)
        newcomer = Newcomer() if (section, number) == (10, 2) else None
        first = next(line for line in block.splitlines() if line.strip())
        table.step(f"$ {first[:80]}{' …' if block.count(chr(10)) > 1 else ''}", lambda: shell.run(block))
        if newcomer:
            table.step("a visitor that came meanwhile", lambda: newcomer.expect("308 "))
        for what, check in checks.pop((section, number), []):
            table.step(what, check)
    table.step("every block that is looked at is there", lambda: none_of(checks))
    print("\nthe guide holds")


def end(load):
    load.send_signal(signal.SIGTERM)
    said, _ = load.communicate(timeout=PATIENCE)
    if load.returncode != 0:
        raise NotTrue(said)
    return said.strip()


main()
