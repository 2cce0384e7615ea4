"""Loads each firewall of /acceptance/firewall.md in a network of its own, and knocks from outside at ports that somebody
listens on: those that are to be open are, others are not, and an address that is closed gets nowhere.

    firewall.py                      all of them
    firewall.py NAME                 one, in the network that this runs in
    firewall.py knock ADDRESS PORT…  from this address: prints which ports answer
"""

import pathlib
import re
import selectors
import socket
import subprocess
import sys
import time

HERE = pathlib.Path("/acceptance")
SERVER, VISITOR, CLOSED = "203.0.113.1", "203.0.113.2", "203.0.113.66"
OPEN = [22, 80, 443, 8080, 20000, 20005, 20010]
# The admin port, a database, and the neighbours of the ports for `tcp` services.
SHUT = [9091, 5432, 19999, 20011]
# What never answers was dropped: that cannot be awaited otherwise.
SILENCE = 1.0
PATIENCE = 30


def blocks(title):
    part = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", (HERE / "firewall.md").read_text(), flags=re.M | re.S)[1]
    return re.findall(r"^```\w*\n(.*?)^```", part, flags=re.M | re.S)


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"failed: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def bash(block):
    run("bash", "-euo", "pipefail", "-c", block, stdin=subprocess.DEVNULL)


def knock(source, ports):
    waiting, answered = selectors.DefaultSelector(), []
    for port in ports:
        attempt = socket.socket()
        attempt.setblocking(False)
        attempt.bind((source, 0))
        attempt.connect_ex((SERVER, port))
        waiting.register(attempt, selectors.EVENT_WRITE, port)
    end = time.monotonic() + SILENCE
    while waiting.get_map() and (left := end - time.monotonic()) > 0:
        for key, _ in waiting.select(left):
            waiting.unregister(key.fileobj)
            if key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                answered.append(key.data)
    print(*sorted(answered))


class Outside:
    """A network beside this one, and a cable between them."""

    def __init__(self):
        self.process = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo up; exec sleep infinity"], stdout=subprocess.PIPE)
        self.process.stdout.readline()
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "inside", "type", "veth", "peer", "name", "outside", "netns", str(self.process.pid))
        run("ip", "address", "add", f"{SERVER}/24", "dev", "inside")
        run("ip", "link", "set", "inside", "up")
        self.there("ip", "link", "set", "outside", "up")
        for address in (VISITOR, CLOSED):
            self.there("ip", "address", "add", f"{address}/24", "dev", "outside")

    def there(self, *command):
        return run("nsenter", "--net", "--target", str(self.process.pid), *command)

    def reaches(self, source):
        said = self.there(sys.executable, __file__, "knock", source, *map(str, OPEN + SHUT))
        return [int(port) for port in said.split()]

    def expect(self, when, source, ports):
        if (seen := self.reaches(source)) != sorted(ports):
            sys.exit(f"{when}: {source} reaches {seen}, not {sorted(ports)}")


def nftables():
    file = pathlib.Path("/etc/nftables.conf")
    file.write_text(blocks("nftables")[0])
    # Twice: the table from before is replaced.
    for _ in range(2):
        run("nft", "-f", file)
    if (chains := run("nft", "list", "table", "inet", "filter").count("dport")) != 1:
        sys.exit(f"loading it again leaves {chains} rules")


def ufw():
    # A machine that is reached by SSH has the profile by openssh-server.
    profile = pathlib.Path("/etc/ufw/applications.d/openssh-server")
    profile.write_text("[OpenSSH]\ntitle=Secure shell server\ndescription=OpenSSH\nports=22/tcp\n")
    bash(blocks("ufw")[0])


def firewalld():
    pathlib.Path("/run/dbus").mkdir(parents=True, exist_ok=True)
    run("dbus-daemon", "--system", "--fork", "--nopidfile")
    daemon = subprocess.Popen(["firewalld", "--nofork", "--nopid"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + PATIENCE
    while subprocess.run(["firewall-cmd", "--state"], capture_output=True).returncode:
        if daemon.poll() is not None or time.monotonic() > end:
            sys.exit("firewalld does not run")
        time.sleep(0.1)
    bash(blocks("firewalld")[0])


FIREWALLS = {"nftables": nftables, "ufw": ufw, "firewalld": firewalld}


def one(name):
    outside = Outside()
    listeners = [socket.create_server(("", port)) for port in OPEN + SHUT]
    outside.expect("without a firewall", VISITOR, OPEN + SHUT)
    FIREWALLS[name]()
    for address in (VISITOR, CLOSED):
        outside.expect("with the rules", address, OPEN)
    bash(blocks("Closing an address")[list(FIREWALLS).index(name)])
    outside.expect("with an address closed", VISITOR, OPEN)
    outside.expect("with an address closed", CLOSED, [])
    for listener in listeners:
        listener.close()
    print(f"  ok      {name}: {len(OPEN)} ports are open, others and a closed address are not", flush=True)


def main():
    match sys.argv[1:]:
        case ["knock", source, *ports]:
            knock(source, map(int, ports))
        case [name]:
            one(name)
        case _:
            print("\ndocs/firewall.md: knocking from outside", flush=True)
            for name in FIREWALLS:
                # Whatever has been started there ends with it.
                isolated = ["unshare", "--net", "--pid", "--mount-proc", "--fork", "--kill-child"]
                code = subprocess.run([*isolated, sys.executable, __file__, name]).returncode
                if code:
                    sys.exit(f"  FAILED  {name}")


main()
