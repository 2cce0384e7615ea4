"""The table of exchanges: rows, what is compared, and how the outcome is shown."""

import dataclasses
import os
import sys
import time
import traceback
from typing import Callable, Optional

# Rows in the order in which they were written down.
ROWS = []


@dataclasses.dataclass
class Row:
    """One exchange. `run` takes a way (`Direct` or `Tunnelled`) and gives back what was seen: anything that compares."""

    group: str
    name: str
    run: Callable
    # What may differ, and why: a function that makes both sides alike, and the words for it. If it leaves nothing to
    # compare, also what the tunnelled side has to show.
    difference: Optional[tuple] = None


def row(group, name, difference=None):
    """Writes down the function below it as a row."""

    def write_down(function):
        ROWS.append(Row(group, name, function, difference))
        return function

    return write_down


@dataclasses.dataclass
class Outcome:
    row: Row
    verdict: str
    direct: str = ""
    tunnelled: str = ""


def compare(row, direct, tunnelled):
    """Runs a row both ways."""
    try:
        seen = row.run(direct), row.run(tunnelled)
    except Exception:
        return Outcome(row, "FAILED", tunnelled=traceback.format_exc(limit=6))
    texts = [short(side) for side in seen]
    if seen[0] == seen[1]:
        return Outcome(row, "equal", *texts)
    if row.difference:
        alike = [row.difference[0](side) for side in seen]
        if alike[0] == alike[1] and texts[1].startswith(row.difference[2] if len(row.difference) > 2 else ""):
            return Outcome(row, "stated", *texts)
    return Outcome(row, "DIFFERENT", pretty(seen[0]), pretty(seen[1]))


def short(seen):
    """A side in a few words."""
    text = seen.get("short") if isinstance(seen, dict) else None
    text = str(text if text is not None else seen)
    return text if len(text) <= 60 else text[:57] + "..."


def pretty(seen):
    if isinstance(seen, dict):
        return "\n".join(f"    {key}: {value!r}" for key, value in seen.items())
    return f"    {seen!r}"


class Paint:
    """Colours on a terminal, none elsewhere."""

    def __init__(self):
        self.on = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def __call__(self, code, text):
        return f"\x1b[{code}m{text}\x1b[0m" if self.on else text


VERDICTS = {"equal": "32", "stated": "33", "DIFFERENT": "31;1", "FAILED": "31;1"}


def run_all(rows, direct, tunnelled):
    """Runs the rows one after the other, and shows each as it is done."""
    paint, outcomes, group = Paint(), [], None
    width = max(len(row.name) for row in rows)
    for row in rows:
        if row.group != group:
            group = row.group
            print(paint("1", f"\n{group}"))
        started = time.monotonic()
        outcome = compare(row, direct, tunnelled)
        took = time.monotonic() - started
        verdict = paint(VERDICTS[outcome.verdict], f"{outcome.verdict:9}")
        slow = f"  ({took:.1f} s)" if took > 2 else ""
        if outcome.verdict in ("equal", "stated"):
            print(f"  {row.name:{width}}  {verdict}  {outcome.direct}{slow}", flush=True)
        else:
            print(f"  {row.name:{width}}  {verdict}{slow}\n  direct:\n{outcome.direct}\n  tunnelled:\n{outcome.tunnelled}", flush=True)
        outcomes.append(outcome)
    return outcomes


def as_markdown(outcomes, measured):
    """The page in `docs`."""
    lines = [
        "# Fidelity",
        "",
        "What an application does when it is reached directly, it does through the tunnel. This page is written by `make fidelity`:",
        "each row is one exchange with a real application, run once directly and once through a server and an agent, and what was",
        "seen on both sides is compared: by the visitor (status, fields, body, trailers, the end) and, where the application is one",
        "that keeps a record, by the application too.",
        "",
        "Always true, and not counted as differences:",
        "",
        "- Field names arrive in lower case, and fields of different names in another order: names have no case (RFC 9110,",
        "  section 5.1), and only the order of one name's values counts (section 5.3). Those are compared.",
        "- Fields that belong to one connection (`Connection`, `Keep-Alive`, `Transfer-Encoding`, `Upgrade`, …) are each side's own;",
        "  how a body is delimited (by its length or in chunks) is compared.",
        "- The application gets `X-Forwarded-For`, `-Host` and `-Proto`, `X-Real-IP` and `X-Request-ID` in addition.",
        "- URIs in `Location`, `Content-Location`, `Refresh` and `Link` that name the application's own address, port or scheme name the",
        "  public origin instead, as nginx's `proxy_redirect default` does it; so does `Destination` the other way round.",
        "",
        "What the HTTP libraries (hyper, h2) cannot carry, with the rows that show it:",
        "",
        "- How the names of fields are written, the order of different names, and fields that are folded over lines.",
        "- The words behind a status, and interim answers but 100 (103 Early Hints).",
        "- Over HTTP/1.1: trailers that no `Trailer` field names, and trailers of an answer without `TE: trailers`. Over HTTP/2",
        "  all of them come.",
        "- More than 160 fields in a request; the length of a 304.",
        "- Bytes in a target that no URI has: `<`, `>`, a backtick in a path, `\"` in a query, Latin-1. They arrive percent-encoded.",
        "- HTTP/2: priorities and server push.",
        "",
        "Limits of the program's own: a request's head of `limits.head_size` (431), an answer's head of 128 KB (502).",
        "",
    ]
    groups = list(dict.fromkeys(outcome.row.group for outcome in outcomes))
    counts = {verdict: sum(outcome.verdict == verdict for outcome in outcomes) for verdict in VERDICTS}
    lines += [f"{len(outcomes)} exchanges: {counts['equal']} equal, {counts['stated']} with a stated difference.", ""]
    for group in groups:
        lines += [f"## {group}", "", "| exchange | direct | tunnelled | verdict |", "| --- | --- | --- | --- |"]
        for outcome in (outcome for outcome in outcomes if outcome.row.group == group):
            verdict = "equal" if outcome.verdict == "equal" else f"differs: {outcome.row.difference[1]}"
            cells = [outcome.row.name, outcome.direct, outcome.tunnelled, verdict]
            lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
        lines.append("")
    lines += ["## Measured", "", "These figures change from run to run; medians, in milliseconds, on one machine over loopback.", ""]
    lines += ["| what | direct | tunnelled |", "| --- | --- | --- |"]
    lines += [f"| {what} | {direct:.2f} | {tunnelled:.2f} |" for what, direct, tunnelled in measured]
    return "\n".join(lines) + "\n"
