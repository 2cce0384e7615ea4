"""The recipes as `docs/self-hoster.md` has them, with what a test has to put in place of it."""

import dataclasses
import re
from pathlib import Path

from stack import ROOT, free_port

DOCUMENT = ROOT / "docs/self-hoster.md"

# What every recipe calls the same: the domain of the server (the test's server has it, too), the machine of the agent, and
# another machine at home that runs the application. They are one machine here.
DOMAIN = "tunnel.example.com"
AT_HOME = re.compile(r"\b192\.168\.1\.\d+\b")
# Below this folder recipes keep data; a test has a folder of its own for it.
DATA = re.compile(r"(?<![\w.])/srv(?=/)")


@dataclasses.dataclass
class Block:
    """A fenced block: its language, its text, and the line where it begins."""

    language: str
    text: str
    line: int


def blocks_of(title):
    """The blocks of the section with this heading."""
    found, inside, block = [], False, None
    for number, line in enumerate(DOCUMENT.read_text().splitlines(), 1):
        if block is not None:
            if line == "```":
                found.append(block)
                block = None
            else:
                block.text += f"{line}\n"
        elif inside and line.startswith("```"):
            block = Block(line[3:], "", number + 1)
        elif line.startswith("#"):
            inside = line.lstrip("#").strip() == title
    if not found:
        raise LookupError(f"there is no section “{title}” with a block")
    return found


def local_ports(services):
    """The ports of the applications that these services lead to."""
    found = (re.fullmatch(r"(?:.*:)?(\d+)/?", str(service["local"])) for service in services)
    return [int(port.group(1)) for port in found if port]


class Places:
    """What stands in for the places that a recipe names: another for each port, folder and address at home."""

    def __init__(self, services, folder: Path):
        self.folder = folder
        self.ports = {port: free_port() for port in local_ports(services)}

    def fill_in(self, text):
        for documented, port in self.ports.items():
            text = re.sub(rf"(?<![\w.]){documented}(?!\w)", str(port), text)
        return DATA.sub(str(self.folder), AT_HOME.sub("127.0.0.1", text))
