"""Instructions of server and agent for each request, counted by callgrind: `python3 bench/instructions.py [--record]`.

The count hardly depends on the machine or on what else it does, so it shows what the clock does not. It is compared with
`bench/instructions.txt`; more than 3 % above that is a failure. `--record` writes that file.
"""

import argparse
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import terminal
from contenders import Adit
from local import Local, Place
from programs import HERE, WORK, Failed, load, run

RECORD = HERE / "instructions.txt"
ALLOWED = 0.03
REPEATS = 3
WARM = 300

# What is counted: a name, the requests, and how they are asked.
CASES = {
    "one-visitor": (1000, ["--path", "/100"]),
    "eight-visitors": (2000, ["--path", "/100", "--parallel", 8]),
    "100k": (200, ["--path", "/100k"]),
}


@dataclass
class Counted(Adit):
    """adit with one of its sides under callgrind."""

    name = "counted"
    side: str = ""

    def under(self, side, command):
        if side != self.side:
            return command
        self.out = self.folder / "callgrind.out"
        for old in self.folder.glob("callgrind.out*"):
            old.unlink()
        return ["valgrind", "--tool=callgrind", f"--callgrind-out-file={self.out}", *command]

    def at_server(self, command, port, **options):
        return super().at_server(self.under("server", command), port, **options)

    def at_home(self, command, name="agent", **options):
        return super().at_home(self.under("agent", command), name, **options)

    def count(self, requests, words):
        """Instructions while these requests are served, for each of them."""
        pid = (self.server if self.side == "server" else self.agent)[0].process.pid
        before = set(self.folder.glob("callgrind.out.*"))
        control("--zero", pid)
        load(self.place, "counted", *self.files.words(), "--count", requests, *words)
        control("--dump", pid)
        written = set(self.folder.glob("callgrind.out.*")) - before
        totals = [line for path in written for line in path.read_text().splitlines() if line.startswith("totals:")]
        if not totals:
            raise Failed(f"callgrind wrote no count:\n{self.server[0].said()}")
        return sum(int(line.split()[1]) for line in totals) / requests


def control(what, pid):
    run(["callgrind_control", what, pid], 60)


def measure():
    """Side and case, and the median of some counts."""
    local = Local(Place("counted"), 1 << 20)
    try:
        for side in ("server", "agent"):
            counted = Counted(local.place, local, side=side)
            try:
                counted.start()
                counted.check()
                load(local.place, "counted", *counted.files.words(), "--count", WARM, "--path", "/100")
                for case, (requests, words) in CASES.items():
                    terminal.progress(f"{side}, {case}")
                    yield f"{side} {case}", statistics.median(counted.count(requests, words) for _ in range(REPEATS))
            finally:
                counted.close()
    finally:
        local.close()


def recorded():
    """What is in the file, by side and case."""
    if not RECORD.exists():
        return {}
    lines = [line for line in RECORD.read_text().splitlines() if line and not line.startswith("#")]
    return {line.rsplit(" ", 1)[0].strip(): int(line.rsplit(" ", 1)[1].replace(",", "")) for line in lines}


def record(counts):
    rustc = " ".join(subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.split()[:2])
    lines = [f"# Instructions for each request; written by `make bench-instructions RECORD=yes` ({rustc})."]
    lines += [f"{name:24} {count:,.0f}" for name, count in counts.items()]
    RECORD.write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(prog="bench/instructions.py", description=__doc__)
    parser.add_argument("--record", action="store_true", help="write bench/instructions.txt")
    given = parser.parse_args()
    before, counts, worse = recorded(), {}, []
    terminal.say(f"  {'instructions for each request':24}   {'now':>12} {'recorded':>12}")
    try:
        for name, count in measure():
            counts[name] = count
            if not before.get(name):
                terminal.say(f"  {name:30} {count:12,.0f} {'-':>12}")
                continue
            change = count / before[name] - 1
            if change > ALLOWED:
                worse.append(name)
            paint = terminal.bad if change > ALLOWED else terminal.good if change < -ALLOWED else str
            terminal.say(f"  {name:30} {count:12,.0f} {before[name]:12,} {paint(f'{change:+7.1%}')}")
    except Failed as error:
        terminal.say(f"error: {error}")
        return 1
    if given.record:
        record(counts)
    elif worse:
        terminal.say(f"error: more than {ALLOWED:.0%} above the record: {', '.join(worse)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
