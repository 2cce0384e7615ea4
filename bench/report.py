"""docs/benchmarks.md and its charts. Nothing else writes them."""

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path

import charts
from measures import COLUMNS, requests, timed, transfer
from programs import HERE, ROOT
from terminal import shown

PAGE = ROOT / "docs/benchmarks.md"
FOLDER = ROOT / "docs/benchmarks"

# The figures that get a chart.
CHARTS = [
    ("requests-64", "rate"), ("requests-64", "cpu"), ("requests-256", "rate"), ("requests-256", "p99"), ("fresh", "rate"),
    ("body-100k", "rate"), ("download-1", "speed"), ("upload-1", "speed"), ("beside-download", "p99"),
    ("link-20ms-100m-beside", "p99"),
]

HEADING = """# Benchmarks

Written by `make bench` on {date}; do not edit. Why adit is built as it is: [performance.md](performance.md). How this is
measured, and how to repeat it: [below](#method).

Absolute figures are this machine's: read the ratios and the processor time. rathole, bore and frp carry bytes; they read no
HTTP, and so they check, limit, log and route no request.
"""


def write(results, measures, who, scale, left_out):
    """The page and its charts, all anew."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.svg"):
        old.unlink()
    drawn = draw(results, {measure.name: measure for measure in measures})
    parts = [HEADING.format(date=datetime.date.today().isoformat()), machine(who, scale, left_out), goals(results)]
    for title, fits in SECTIONS:
        chosen = [measure for measure in measures if fits(measure) and results.medians(measure.name)]
        if chosen:
            parts.append(f"## {title}\n")
            parts += [one(results, measure, drawn) for measure in chosen]
    parts.append((HERE / "method.md").read_text())
    PAGE.write_text("\n".join(parts))


SECTIONS = [
    ("Requests", lambda measure: measure.kind in (requests, timed)),
    ("Large bodies", lambda measure: measure.kind is transfer),
    ("Small beside large", lambda measure: measure.name.startswith(("beside", "alone"))),
    ("Memory", lambda measure: measure.name.startswith("memory")),
    ("Over a shaped link", lambda measure: measure.link is not None),
]


def one(results, measure, drawn):
    """The table of one measure, and its charts."""
    medians, figures = results.medians(measure.name), results.shown(measure.name)
    has_ratio = any(results.ratio(measure.name, measure.main, name) for name in medians)
    heads = ["who", *(COLUMNS[figure].title for figure in figures), *(["adit / it"] if has_ratio else [])]
    lines = [f"### {measure.title}\n", f"`make bench ONLY={measure.name}`; adit / it: {COLUMNS[measure.main].title}.\n"]
    lines += ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for name, values in medians.items():
        cells = [f"**{name}**" if name == "adit" else name, *(shown(figure, values.get(figure)) for figure in figures)]
        if has_ratio:
            against = results.ratio(measure.name, measure.main, name)
            cells.append("" if against is None else f"{against:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    lines += [f"\n![{title}](benchmarks/{file})" for name, title, file in drawn if name == measure.name]
    return "\n".join(lines) + "\n"


def draw(results, measures):
    """Writes the charts; measure, title and file of each."""
    drawn = []
    for name, figure in CHARTS:
        medians = results.medians(name)
        rows = [(who, values[figure], shown(figure, values[figure])) for who, values in medians.items() if figure in values]
        if rows:
            column = COLUMNS[figure]
            title = f"{measures[name].title}: {column.title}"
            file = f"{name}-{figure.replace('_', '-')}.svg"
            (FOLDER / file).write_text(charts.bars(title, "more is better" if column.more else "less is better", rows))
            drawn.append((name, title, file))
    return drawn


def machine(who, scale, left_out):
    """Where and with what."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text()).group(1)) / (1 << 20)
    control = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    changed = ", with changes" if git("status", "--porcelain", "src", "Cargo.toml") else ""
    lines = [
        "## Machine and versions\n",
        "| | |", "| --- | --- |",
        f"| processor | {cpu.group(1) if cpu else platform.machine()}, {os.cpu_count()} cores, "
        "shared by load generator, server, agent and application |",
        f"| memory | {memory:.0f} GiB |",
        f"| kernel | Linux {platform.release().split('-')[0]}, congestion control {control} |",
        f"| adit | commit {git('rev-parse', '--short=12', 'HEAD')}{changed}, release build, {rustc()} |",
        f"| rounds | {scale.rounds} of each measure, {scale.seconds:g} s each, interleaved; "
        f"large bodies {scale.bulk >> 20} MiB; medians |",
        "\n| who | what | version |", "| --- | --- | --- |",
    ]
    lines += [f"| {kind.name} | {kind.title} | {kind.version()} |" for kind in who]
    if left_out:
        lines.append(f"\nNot measured here, without root or /dev/net/tun: {', '.join(left_out)}.")
    return "\n".join(lines) + "\n"


def goals(results):
    """What we want of it, met or not."""
    lines = ["## Goals\n", "| figure | is | should be | |", "| --- | ---: | ---: | --- |"]
    for what, found, more, bound, met in results.goals():
        lines.append(f"| {what} | {found:.2f} | {'≥' if more else '≤'} {bound:g} | {'met' if met else '**missed**'} |")
    return "\n".join(lines) + "\n"


def git(*words):
    return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True).stdout.strip()


def rustc():
    return " ".join(subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.split()[:2])
