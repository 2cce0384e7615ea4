"""Measures adit beside others: `python3 bench [--quick] [--only NAME,…] [--write]`. See docs/benchmarks.md."""

import argparse
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import contenders
import links
import report
import terminal
from local import Local, Place
from measures import FULL, MEASURES, QUICK
from programs import ROOT, WORK, Failed
from results import Results


class Bench:
    """One run: places with their contenders, started when they are first needed."""

    def __init__(self, scale, who, with_links):
        self.scale, self.who, self.with_links = scale, who, with_links
        self.results, self.opened, self.links = Results(), [], None
        self.left_out = []

    def open(self, place):
        """Starts the application and the contenders in a place, and checks each of them."""
        terminal.progress(f"starting everything on {place.name}")
        local = Local(place, self.scale.bulk)
        self.opened.append(local)
        running = []
        for kind in self.who:
            contender = kind(place, local)
            self.opened.append(contender)
            terminal.progress(f"checking {contender.name} on {place.name}")
            contender.start()
            contender.check()
            running.append(contender)
        return running

    def close_place(self):
        for thing in reversed(self.opened):
            thing.close()
        self.opened = []

    def close(self):
        self.close_place()
        if self.links:
            self.links.close()

    def run(self, measures):
        """Those on loopback, then those on links."""
        begin = time.monotonic()
        near = [measure for measure in measures if not measure.link]
        far = [measure for measure in measures if measure.link]
        if near:
            running = self.open(Place())
            for measure in near:
                self.measure(measure, running, begin)
            self.close_place()
        if far and self.with_links:
            self.links = links.Links()
            running = self.open(self.links.place)
            for measure in far:
                self.links.shape(measure.link)
                self.measure(measure, running, begin)
        elif far:
            self.left_out = [measure.name for measure in far]

    def measure(self, measure, running, begin):
        """Interleaved: every contender once, then every contender again."""
        rounds = min(self.scale.rounds, measure.rounds or self.scale.rounds)
        taking_part = [contender for contender in running if not measure.only or contender.name in measure.only]
        for turn in range(rounds):
            for contender in taking_part:
                since = time.monotonic() - begin
                terminal.progress(f"{since:4.0f} s  {measure.name}  round {turn + 1} of {rounds}  {contender.name}")
                if figures := measure.kind(contender, self.scale, **measure.options):
                    self.results.add(measure.name, contender.name, figures)
        results = self.results
        terminal.table(measure, results.medians(measure.name), results.shown(measure.name),
                       lambda name: results.ratio(measure.name, measure.main, name))


def options():
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the core, in about four minutes")
    parser.add_argument("--only", default="", help="names of measures, separated by commas; a * at the end stands for any")
    parser.add_argument("--who", default="", help="names of contenders, separated by commas")
    parser.add_argument("--rounds", type=int, help="rounds of each measure")
    parser.add_argument("--no-link", action="store_true", help="leave out what needs root and /dev/net/tun")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md and its charts")
    parser.add_argument("--list", action="store_true", help="only list measures and contenders")
    return parser


def fits(name, wanted):
    return any(name == word or word.endswith("*") and name.startswith(word[:-1]) for word in wanted)


def chosen(parser, given):
    """Measures and contenders of this run."""
    measures = [measure for measure in MEASURES if measure.quick or not given.quick]
    if given.only:
        wanted = given.only.split(",")
        measures = [measure for measure in MEASURES if fits(measure.name, wanted)]
        if unknown := [word for word in wanted if not any(fits(measure.name, [word]) for measure in MEASURES)]:
            parser.error(f"there is no measure {', '.join(unknown)}; --list names all")
    who = [kind for kind in contenders.ALL if kind.available() and (kind.quick or not given.quick)]
    if given.who:
        wanted = given.who.split(",")
        who = [kind for kind in contenders.ALL if kind.name in wanted]
        if unknown := [word for word in wanted if not any(kind.name == word for kind in contenders.ALL)]:
            parser.error(f"there is no contender {', '.join(unknown)}; --list names all")
    return measures, who


def list_all():
    for measure in MEASURES:
        print(f"{measure.name:26} {'quick ' if measure.quick else '      '} {measure.title}")
    print()
    for kind in contenders.ALL:
        there = "" if kind.available() else " (not installed)"
        print(f"{kind.name:26} {'quick ' if kind.quick else '      '} {kind.title.strip('*')}{there}")


def main():
    parser = options()
    given = parser.parse_args()
    if given.list:
        list_all()
        return 0
    # What was started ends, however this ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    measures, who = chosen(parser, given)
    scale = QUICK if given.quick else FULL
    if given.rounds:
        scale = replace(scale, rounds=given.rounds)
    lacking = links.missing()
    if any(measure.link for measure in measures) and lacking and not given.no_link:
        if not given.quick:
            parser.error(f"a shaped link needs {lacking}; --no-link (make bench LINK=no) leaves those measures out")
        terminal.say(f"without the shaped link, which needs {lacking}")
    bench = Bench(scale, who, not given.no_link and not lacking)
    WORK.mkdir(parents=True, exist_ok=True)
    try:
        bench.run(measures)
    except Failed as error:
        terminal.say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        terminal.say("stopped")
        return 130
    finally:
        bench.close()
        bench.results.save(WORK / "results.json")
    say_goals(bench.results)
    if given.write:
        report.write(bench.results, measures, who, scale, bench.left_out)
        terminal.say(f"\nwritten to {report.PAGE.relative_to(ROOT)}")
    return 0


def say_goals(results):
    lines = list(results.goals())
    if lines:
        terminal.say(f"\n{terminal.bold('goals')}")
    for what, found, more, bound, met in lines:
        paint = terminal.good if met else terminal.bad
        wanted = f"{'at least' if more else 'at most'} {bound:g}"
        terminal.say(f"  {paint('met   ' if met else 'missed')} {what}: {found:.2f}, {wanted}")


if __name__ == "__main__":
    sys.exit(main())
