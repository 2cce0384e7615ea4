"""The commands of /acceptance/runbook.md, in order: the lines of its `sh` blocks, and what is code in its text and begins with
a program that an operator types.
"""

import pathlib
import re

from basics import HERE, NotTrue, none_of
from held import Held

PROGRAMS = {"adit", "ask", "curl", "dmesg", "journalctl", "nc", "runuser", "systemctl", "tail"}

# What cannot be run in a chroot without a systemd, and why.
NOT_HERE = {
    "journalctl -u adit-server -n 100": "there is no journal",
    "systemctl status adit-server": "systemctl.py has nothing to show",
    "nc -vz HOST 8080": "it is asked from outside",
    "dmesg | grep -i oom": "the kernel is not this system's",
}


def commands(text):
    """(section, command), as they are written; a command that runs on in the next line is one."""
    for part in re.split(r"^##? ", text, flags=re.M)[1:]:
        title, _, rest = part.partition("\n")
        for block, code in re.findall(r"^ *```sh\n(.*?)^ *```|`([^`]+)`", rest, flags=re.M | re.S):
            found = [line.strip() for line in block.splitlines()] if block else [" ".join(code.split())]
            for command in filter(None, found):
                # A word alone is a name.
                if block or " " in command and command.split()[0] in PROGRAMS:
                    yield title, command


def follow_runbook(table, shell):
    """Runs its commands, but for those that cannot be here, and looks whether the request that one of them ends has ended."""
    table.section("docs/runbook.md")
    held, exceptions = Held(), dict(NOT_HERE)
    for _, command in commands((HERE / "runbook.md").read_text()):
        if why := NOT_HERE.get(command):
            exceptions.pop(command, None)
            print(f"  not here          $ {command}: {why}", flush=True)
            continue
        typed = lambda: command.replace("/ID", f"/{held.id()}") if "/ID" in command else command
        table.step(f"$ {command[:100]}", lambda: shell.run(f"{typed()}\n"))
        if "-X DELETE" in command:
            table.step("the request is cut", lambda: cut(held))
    table.step("no exception is left over", lambda: none_of(exceptions))
    table.step("whom the certificates belong to", still_adits)


def cut(held):
    if (had := held.read()) >= Held.SIZE:
        raise NotTrue("the download came to its end")
    return f"after {had >> 20} MiB"


def still_adits():
    owners = {path.name: path.owner() for path in pathlib.Path("/var/lib/adit/certs").iterdir()}
    if set(owners.values()) != {"adit"}:
        raise NotTrue(str(owners))
    return "adit, after a renewal too"
