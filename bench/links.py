"""Two network namespaces and the link between them (`bench/link`): visitors and server at one end, home at the other."""

import os
import subprocess

from local import Place
from programs import ROOT, WORK, Failed, Program, run

PROGRAM = WORK / "build/release/bench-link"
SERVER, HOME = "10.77.0.1", "10.77.0.2"


def missing():
    """What keeps links from working here, or nothing."""
    if os.geteuid() != 0:
        return "root, for network namespaces"
    if not os.path.exists("/dev/net/tun"):
        return "/dev/net/tun"
    return None


class Links:
    """One link, shaped anew for each measure."""

    def __init__(self):
        if lacking := missing():
            raise Failed(f"a shaped link needs {lacking}")
        run(["cargo", "build", "--quiet", "--locked", "--release", "--manifest-path", ROOT / "bench/link/Cargo.toml",
             "--target-dir", WORK / "build"], 600)
        self.visitors, self.home = f"bench-v-{os.getpid()}", f"bench-h-{os.getpid()}"
        self.place = Place("link", self.visitors, self.home, SERVER, HOME)
        self.program = None
        try:
            for name in (self.visitors, self.home):
                run(["ip", "netns", "add", name])
                run(["ip", "-n", name, "link", "set", "lo", "up"])
            command = [PROGRAM, "--left", self.visitors, SERVER, "--right", self.home, HOME]
            self.program = Program("link", command, stdin=subprocess.PIPE)
            self.program.wait_for_words("ready")
        except BaseException:
            self.close()
            raise

    def shape(self, link):
        """Both directions alike; the delay of each is half the round trip."""
        self.tell("reset", f"rate {link.rate}", f"delay {link.rtt / 2}", f"queue {link.queue}", f"loss {link.loss}",
                  f"fair {'on' if link.fair else 'off'}")

    def tell(self, *commands):
        """Changes the link while it runs; waits until it says that it has."""
        for command in commands:
            before = self.program.said().count("\n")
            self.program.process.stdin.write(f"{command}\n".encode())
            self.program.process.stdin.flush()
            self.program.wait("an answer", lambda: self.program.said().count("\n") > before)
            answer = self.program.said().splitlines()[-1]
            if answer != "ok":
                raise Failed(f"the link did not take {command!r}: {answer}")

    def close(self):
        if self.program:
            self.program.end()
        for name in (self.visitors, self.home):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
