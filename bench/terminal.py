"""What a person sees while it works: progress on one line, tables with ratios, colours on a terminal only."""

import os
import sys

from measures import COLUMNS

IS_TERMINAL = sys.stdout.isatty()
COLOURED = IS_TERMINAL and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def style(text, code):
    return f"\033[{code}m{text}\033[0m" if COLOURED else text


def bold(text):
    return style(text, "1")


def good(text):
    return style(text, "32")


def bad(text):
    return style(text, "31")


def dim(text):
    return style(text, "2")


def progress(text):
    """Overwrites itself; says nothing where it could not."""
    if IS_TERMINAL:
        room = os.get_terminal_size().columns - 1
        print(f"\r\033[K{dim(text[:room])}", end="", flush=True)


def say(text=""):
    if IS_TERMINAL:
        print("\r\033[K", end="")
    print(text, flush=True)


def shown(figure, value):
    return "-" if value is None else COLUMNS[figure].form.format(value)


def table(measure, medians, figures, ratio):
    """Prints one measure: a line for each contender, and how adit compares with it."""
    say(f"\n{bold(measure.title)}  {dim(measure.name)}")
    heads = ["", *(COLUMNS[figure].title for figure in figures), "adit / it"]
    rows = []
    for name, values in medians.items():
        against = ratio(name)
        cells = [shown(figure, values.get(figure)) for figure in figures]
        rows.append([name, *cells, "" if against is None else f"{against:.2f}"])
    widths = [max(len(row[place]) for row in [heads, *rows]) for place in range(len(heads))]
    for row in [heads, *rows]:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        line = "  " + "  ".join(cells)
        say(dim(line) if row is heads else bold(line) if row[0] == "adit" else line)
