"""What is measured, as one table, and how each kind of it is done. A new measure is a new line in `MEASURES`.

A kind is a function of a running contender and the scale of the run; it gives back named figures, and `COLUMNS` says
what each of them is called.
"""

import re
import time
from dataclasses import dataclass, field

from programs import Failed, Load, cpu_seconds, forget_peak, load, memory, run

MIB = 1 << 20


@dataclass(frozen=True)
class Column:
    """How a figure is shown, and whether more of it is better."""

    title: str
    form: str
    more: bool = False


COLUMNS = {
    "rate": Column("requests/s", "{:,.0f}", True),
    "trips": Column("round trips/s", "{:,.0f}", True),
    "speed": Column("MB/s", "{:,.1f}", True),
    "p50": Column("p50 ms", "{:,.2f}"),
    "p99": Column("p99 ms", "{:,.2f}"),
    "cpu": Column("CPU s for 10,000", "{:.3f}"),
    "cpu_gib": Column("CPU s for a GiB", "{:.2f}"),
    "server_rss": Column("server, RSS MiB", "{:,.1f}"),
    "server_pss": Column("server, PSS MiB", "{:,.1f}"),
    "agent_rss": Column("agent, RSS MiB", "{:,.1f}"),
    "agent_pss": Column("agent, PSS MiB", "{:,.1f}"),
    "server_kib": Column("server, KiB each", "{:,.1f}"),
    "agent_kib": Column("agent, KiB each", "{:,.1f}"),
    "errors": Column("errors", "{:,.0f}"),
}


@dataclass(frozen=True)
class Scale:
    """How long a run takes and how much it moves."""

    rounds: int
    # Of one load.
    seconds: float
    # Bytes of a large file.
    bulk: int
    # WebSockets or waiting requests that are held, twice.
    held: int
    quick: bool = False


FULL = Scale(rounds=5, seconds=3, bulk=1 << 30, held=1000)
QUICK = Scale(rounds=3, seconds=1, bulk=1 << 28, held=1000, quick=True)


@dataclass(frozen=True)
class Link:
    """What a place behind a link is shaped to; rates in Mbit/s, times in ms, the queue in KB."""

    rate: int
    rtt: int
    loss: float = 0
    fair: bool = False
    queue: int = 256


@dataclass(frozen=True)
class Measure:
    """One line of the table."""

    name: str
    title: str
    kind: object
    # The figure for the chart and the ratios.
    main: str
    options: dict = field(default_factory=dict)
    quick: bool = False
    link: Link | None = None
    # Names of contenders that take part, if not all.
    only: tuple = ()
    # A full run does so many rounds; None is as many as the scale says.
    rounds: int | None = None


def requests(contender, scale, connections, path="/100", close=False):
    """wrk with one thread; the processor time is that of server and agent."""
    way = contender.files
    command = ["wrk", "-t1", f"-c{connections}", f"-d{scale.seconds:.0f}s", "--timeout", "10s", "--latency"]
    command += ["-H", f"Host: {way.host}", *(["-H", "Connection: close"] if close else [])]
    before = cpu_seconds(contender.programs())
    said = run(command + [f"http://{way.address}:{way.port}{path}"], scale.seconds + 30, contender.place.visitors)
    cpu = cpu_seconds(contender.programs()) - before
    count = int(re.search(r"(\d+) requests in", said).group(1))
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    # An end of the connection where one was asked for is not an error to anybody but wrk.
    errors = sum(int(number) for place, number in enumerate(broken.groups()) if not (close and place == 1)) if broken else 0
    if bad or not count:
        raise Failed(f"{contender.name} answered wrongly under load:\n{said}")
    figures = {"rate": float(re.search(r"Requests/sec: +([\d.]+)", said).group(1)), "errors": errors}
    for share in (50, 99):
        # wrk puts a space behind a unit of one letter.
        found = re.search(rf"\n +{share}% +([\d.]+)(us|ms|s|m) *\n", said)
        if not found:
            raise Failed(f"wrk told no latency of {contender.name}:\n{said}")
        figures[f"p{share}"] = float(found.group(1)) * {"us": 1e-3, "ms": 1, "s": 1e3, "m": 6e4}[found.group(2)]
    if contender.programs():
        figures["cpu"] = cpu / count * 10_000
    return figures


def transfer(contender, scale, up=False, parallel=1):
    """One large body, or several that are as much together."""
    before = cpu_seconds(contender.programs())
    size = scale.bulk // parallel
    if up:
        words = ["upload", *contender.app.words(), "--file", contender.local.bulk_file, "--size", size]
    else:
        words = ["download", *contender.files.words(), "--path", "/bulk" if parallel == 1 else "/part"]
    seen = load(contender.place, *words, "--parallel", parallel)
    figures = {"speed": seen["bytes"] / seen["seconds"] / 1e6}
    if contender.programs():
        figures["cpu_gib"] = (cpu_seconds(contender.programs()) - before) / seen["bytes"] * (1 << 30)
    return figures


def timed(contender, scale, what):
    """One after the other: `websocket` messages, or a `fresh` connection for each request."""
    way = contender.app if what == "websocket" else contender.files
    seen = load(contender.place, what, *way.words(), "--seconds", scale.seconds)
    return {"p50": seen["p50"], "p99": seen["p99"], "trips": seen["count"] / scale.seconds}


def beside(contender, scale, what):
    """Small requests one at a time beside a download that never ends (`stream`) or a reader that has stopped (`stall`)."""
    skip = 2 if contender.place.visitors else 0.2
    words = [what, *contender.files.words(), *(["--skip", skip] if what == "stream" else [])]
    giant = Load(contender.place, *words)
    try:
        seconds = max(scale.seconds, 5) if contender.place.visitors else scale.seconds
        seen = load(contender.place, "pings", *contender.files.words(), "--seconds", seconds)
    finally:
        ended = giant.end()
    figures = {"p50": seen["p50"], "p99": seen["p99"]}
    if what == "stream":
        figures["speed"] = ended["bytes"] / ended["seconds"] / 1e6
    return figures


def beside_many(contender, scale, downloads, what):
    """Small requests one at a time beside many downloads that never end: on one connection (`pings`), or each on a
    connection of its own (`fresh`)."""
    contender.restart()
    words = [*contender.files.words(), "--patience", 100]
    crowd = Load(contender.place, "crowd", *words, "--parallel", downloads, "--skip", 20)
    try:
        seen = load(contender.place, what, *words, "--seconds", 40, seconds=200)
    finally:
        ended = crowd.end()
    return {"p50": seen["p50"], "p99": seen["p99"], "speed": ended["bytes"] / ended["seconds"] / 1e6}


def alone(contender, scale):
    """Small requests one at a time, with nothing beside them."""
    seen = load(contender.place, "pings", *contender.files.words(), "--seconds", max(scale.seconds, 3))
    return {"p50": seen["p50"], "p99": seen["p99"]}


def long_download(contender, scale):
    """One download for some seconds, of which the first two do not count: they are TCP's slow start."""
    seconds = 5 if scale.quick else 8
    seen = load(contender.place, "stream", *contender.files.words(), "--seconds", seconds, "--skip", 2)
    return {"speed": seen["bytes"] / seen["seconds"] / 1e6}


def ends(contender):
    """The two sides of it that there are."""
    return [(side, programs) for side, programs in (("server", contender.server), ("agent", contender.agent)) if programs]


def idle_memory(contender, _):
    """What a fresh one takes."""
    contender.restart()
    time.sleep(0.5)
    figures = {}
    for side, programs in ends(contender):
        seen = memory(programs)
        figures |= {f"{side}_rss": seen["rss"] / 1024, f"{side}_pss": seen["pss"] / 1024}
    return figures


def peak_memory(contender, scale):
    """The most that a fresh one has resident while a large body goes through it."""
    contender.restart()
    forget_peak(contender.programs())
    load(contender.place, "download", *contender.files.words())
    return {f"{side}_rss": memory(programs)["peak"] / 1024 for side, programs in ends(contender)}


def held_memory(contender, scale, what):
    """What each open WebSocket, or each request that waits for its answer, adds.

    The first ones fill memory that the program has already, so they are held, but not counted."""
    contender.restart()
    words = ["hold", *contender.app.words(), "--what", what, "--count", scale.held]
    held, seen = [], []
    try:
        for _ in range(2):
            held.append(Load(contender.place, *words))
            seen.append({side: memory(programs)["pss"] for side, programs in ends(contender)})
        return {f"{side}_kib": (after - seen[0][side]) / scale.held for side, after in seen[1].items()}
    finally:
        for load_of_it in held:
            load_of_it.end()


def _links():
    """The table's part that is measured over a shaped link."""
    far = ("direct", "adit", "rathole-tls", "rathole")
    links = {
        "20ms-100m": Link(100, 20),
        "20ms-100m-fair": Link(100, 20, fair=True),
        "20ms-100m-loss": Link(100, 20, loss=1),
        "100ms-400m": Link(400, 100, queue=1024),
    }
    for name, link in links.items():
        words = f"{link.rate} Mbit/s, {link.rtt} ms"
        words += (", fair queue" if link.fair else "") + (f", {link.loss:g} % loss" if link.loss else "")
        quick = name == "20ms-100m"
        yield Measure(f"link-{name}-download", f"{words}: one download", long_download, "speed",
                      link=link, only=far, rounds=3)
        yield Measure(f"link-{name}-alone", f"{words}: small requests, alone", alone, "p50",
                      link=link, only=far, rounds=1)
        yield Measure(f"link-{name}-beside", f"{words}: small requests beside a download", beside, "p99",
                      {"what": "stream"}, quick, link, far, rounds=3)
    slow, words = Link(1, 80), "1 Mbit/s, 80 ms: small requests beside 64 downloads"
    for what, how in (("fresh", "each on a new connection, to the first byte"), ("pings", "on one connection")):
        yield Measure(f"link-80ms-1m-{what}", f"{words}, {how}", beside_many, "p50", {"downloads": 64, "what": what},
                      link=slow, only=far, rounds=3)


MEASURES = [
    Measure("requests-64", "100-byte answers, 64 visitors", requests, "rate", {"connections": 64}, True),
    Measure("requests-256", "100-byte answers, 256 visitors", requests, "rate", {"connections": 256}, True),
    Measure("body-100k", "100 KB answers, 64 visitors", requests, "rate", {"connections": 64, "path": "/100k"}, True),
    Measure("fresh", "a new connection for every request, 64 visitors", requests, "rate",
            {"connections": 64, "close": True}, True),
    Measure("first-byte", "a new connection to its first byte, one at a time", timed, "p50", {"what": "fresh"}, True),
    Measure("websocket", "WebSocket, 64 bytes there and back, one at a time", timed, "p50", {"what": "websocket"}, True),
    Measure("download-1", "one download", transfer, "speed", {}, True),
    Measure("upload-1", "one upload", transfer, "speed", {"up": True}, True),
    Measure("download-8", "eight downloads at once", transfer, "speed", {"parallel": 8}),
    Measure("upload-8", "eight uploads at once", transfer, "speed", {"up": True, "parallel": 8}),
    Measure("alone", "small requests one at a time, alone", alone, "p99", rounds=1),
    Measure("beside-download", "small requests beside a download", beside, "p99", {"what": "stream"}, True),
    Measure("beside-stalled", "small requests beside a reader that has stopped", beside, "p99", {"what": "stall"}),
    Measure("memory-idle", "memory, idle", idle_memory, "server_pss", rounds=1, quick=True),
    Measure("memory-peak", "memory, the most during a download", peak_memory, "server_rss", rounds=1),
    Measure("memory-websocket", "memory of an idle WebSocket", held_memory, "server_kib", {"what": "websocket"}, rounds=1),
    Measure("memory-waiting", "memory of a request that waits", held_memory, "server_kib", {"what": "wait"}, rounds=1),
    *_links(),
]


@dataclass(frozen=True)
class Goal:
    """What a figure of adit should be: at least (or at most) so many times that of another, or of nothing."""

    measure: str
    figure: str
    bound: float
    than: str | None = None


GOALS = [
    Goal("requests-64", "rate", 1.1, "rathole-tls"),
    Goal("requests-64", "cpu", 0.8, "rathole-tls"),
    Goal("requests-256", "rate", 1.4, "rathole-tls"),
    Goal("requests-256", "p99", 20),
    Goal("fresh", "rate", 0.8, "nginx"),
    Goal("body-100k", "rate", 2.0, "rathole-tls"),
    Goal("body-100k", "rate", 1.2, "rathole"),
    Goal("download-1", "speed", 1.7, "rathole-tls"),
    Goal("upload-1", "speed", 1.7, "rathole-tls"),
    Goal("beside-download", "p99", 1.5, "rathole-tls"),
    Goal("link-20ms-100m-beside", "p50", 1.1, "rathole-tls"),
    Goal("link-20ms-100m-beside", "p99", 1.1, "rathole-tls"),
    Goal("link-100ms-400m-download", "speed", 0.95, "rathole-tls"),
    Goal("link-80ms-1m-fresh", "p50", 1.3, "direct"),
    Goal("memory-websocket", "server_kib", 40),
    Goal("memory-waiting", "server_kib", 32),
]
