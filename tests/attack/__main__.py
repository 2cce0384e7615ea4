"""Attacks a server of its own and looks how its neighbours fare:

    python3 tests/attack [--only WORD,…] [--write docs/security.md] PROGRAM
"""

import argparse
import importlib
import multiprocessing
import os
import shutil
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import report
from attacks import TABLE, Seen
from bystander import Bystander, percentile
from target import Gauge, Target
from stack import wait_for  # which `target` has put within reach

# Each is a file in `rows`, which adds its attacks to the table with `@attack`. Further kinds of attackers (agents that mean
# harm, applications that do) are files of their own, named here.
GROUPS = ["tunnel", "http1", "http2", "https", "admin", "tenants", "webhooks", "exhaustion"]

# How long the bystander is alone before each attack, and how long what an attacker held may take to be given back.
ALONE, GIVEN_BACK = 1.5, 20

# How long an attack goes on at least: one that is over sooner begins again.
AT_LEAST = 3

# Descriptors that may be left of an attack: connections that are kept for the next request.
LEFT = 16


def attacker(row, target, pipe):
    """An attacker's process. It is on another machine as it were, so that it makes way for the others."""
    os.nice(10)
    try:
        started, times = time.monotonic(), 1
        seen = row.run(target)
        # A single short blow tells nothing of the bystander.
        while time.monotonic() - started < AT_LEAST and not seen.wrong:
            again, times = row.run(target), times + 1
            seen.wrong = again.wrong
        seen.tried += f", {times} times" if times > 1 else ""
        pipe.send(seen)
    except Exception:
        pipe.send(Seen("", "the attack broke off", [traceback.format_exc()]))


def run_attack(row, target):
    """Runs the attack; what was seen, or that it took too long."""
    pipe, other = multiprocessing.Pipe()
    process = multiprocessing.Process(target=attacker, args=(row, target, other), daemon=True)
    process.start()
    # The run is not its only holder while the process lives: if that dies, the other end closes.
    other.close()
    try:
        if pipe.poll(row.seconds):
            return pipe.recv()
        return Seen("", "the attack did not end", [f"not done after {row.seconds:.0f} s"])
    except EOFError:
        return Seen("", "the attacker has died", ["the attacker has died"])
    finally:
        process.terminate()
        process.join()


def figures(samples):
    return percentile(samples, 0.5), percentile(samples, 0.99)


def judge(row, target, bystander):
    """One row: the bystander alone, the attack, and whether everything is as it was afterwards."""
    server, agents = Gauge(target.server), [Gauge(agent) for agent in target.agents.values()]
    bystander.take()
    time.sleep(ALONE)
    before, failed_before = bystander.take()
    files = server.files()
    for gauge in (server, *agents):
        gauge.reset()
    memory, agent_memory = server.memory()[0], sum(gauge.memory()[0] for gauge in agents)
    cpu, started = server.seconds(), time.monotonic()
    seen = run_attack(row, target)
    during, failed = bystander.take()
    cpu = (server.seconds() - cpu) / (time.monotonic() - started)
    peak, agent_peak = server.memory()[1], sum(gauge.memory()[1] for gauge in agents)
    wrong = list(seen.wrong)

    def insist(condition, words):
        if not condition:
            wrong.append(words)

    def are_given_back():
        return server.files() <= files + LEFT

    try:
        wait_for("", are_given_back, GIVEN_BACK)
    except TimeoutError:
        insist(False, f"{server.files() - files} descriptors more than before are open after {GIVEN_BACK} s")
    after, failed_after = bystander.take()
    alone, attacked = figures(before), figures(during)
    failed = failed_before + failed + failed_after
    insist(not failed, f"the bystander failed {len(failed)} times: {failed[:2]}")
    insist(during and after is not None, "the bystander got no answer at all")
    bound = row.p99 if row.times is None else max(row.times * alone[1], alone[1] + 5)
    insist(attacked[1] <= bound, f"the bystander's p99 is beyond {bound:.0f} ms")
    insist(peak - memory <= row.server, f"the server grew by more than {row.server:.0f} MiB")
    insist(agent_peak - agent_memory <= row.agent, f"the agents grew by more than {row.agent:.0f} MiB")
    insist(row.cpu is None or cpu <= row.cpu, f"the server took more than {row.cpu or 0:.0%} of a core")
    return report.Row(row, seen, alone, attacked, len(during), (memory, peak), (agent_memory, agent_peak), cpu, wrong)


def run_all(attacks, program):
    """Runs them in their order, those with the same server together."""
    rows, target, bystander, kind = [], None, None, None
    try:
        for row in attacks:
            if (row.settings, row.files) != kind:
                finish(target, bystander)
                target, kind = Target(program, row.settings, row.files), (row.settings, row.files)
                bystander = Bystander(target)
            if not rows or rows[-1].attack.group != row.group:
                print(f"\n{row.group}", flush=True)
            rows.append(judge(row, target, bystander))
            report.on_terminal(rows[-1])
            if target.server.process.poll() is not None:
                print(f"the server has ended:\n{target.server.said()[-4000:]}")
                break
    finally:
        finish(target, bystander)
    return rows


def finish(target, bystander):
    if bystander:
        bystander.close()
    if target:
        target.close()
        shutil.rmtree(target.folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(prog="attack", description=__doc__)
    parser.add_argument("program", type=Path, help="the adit program to attack")
    parser.add_argument("--only", help="attacks whose group or name contains one of these words, separated by commas")
    parser.add_argument("--write", type=Path, help="put the table into this page")
    options = parser.parse_args()
    multiprocessing.set_start_method("fork")
    for group in GROUPS:
        importlib.import_module(f"rows.{group}")
    words = options.only.split(",") if options.only else [""]
    attacks = [row for row in TABLE if any(word in f"{row.group}: {row.name}" for word in words)]
    if not attacks:
        parser.error(f"there is no such attack; the groups are {', '.join(GROUPS)}")
    started = time.monotonic()
    rows = run_all(attacks, options.program.resolve())
    bad = [row for row in rows if row.wrong]
    print(f"\n{len(rows)} of {len(attacks)} attacks in {time.monotonic() - started:.0f} s: "
          f"{len(rows) - len(bad)} held off, {len(bad)} not")
    if options.write and not bad and len(rows) == len(attacks):
        report.write(options.write, rows)
        print(f"written to {options.write}")
    return 1 if bad or len(rows) < len(attacks) else 0


if __name__ == "__main__":
    sys.exit(main())
