"""Tries the recipes of docs/self-hoster.md: `python3 tests/recipes [--only APP,…] [--verbose] PROGRAM`.

Each file in `rows` is a recipe. It has

- `SECTION`: the heading in the document. Its first block of TOML with `[[services]]` goes into agent.toml; the row takes the
  others by `recipe.text`. A block that it does not take is an error, so that the document cannot drift from what is tried;
- `PYPI`, `NPM`, `DEBIAN`: what `install.sh` installs for it, at exact versions where registries keep them: packages of pip and
  npm (into target/recipes/APP), and programs with the Debian packages that bring them;
- `run(recipe)`: starts the application and does what its users do (`recipe.py`), each under a `recipe.step`.
"""

import argparse
import importlib
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "fidelity")]


def rows():
    return sorted(path.stem for path in (HERE / "rows").glob("*.py") if path.stem != "__init__")


def needs(chosen):
    """What `install.sh` has to see to, a line for each: `debian PROGRAM PACKAGE`, `pypi APP PACKAGE…`, `npm APP PACKAGE…`."""
    for name in chosen:
        row = importlib.import_module(f"rows.{name}")
        for program, package in getattr(row, "DEBIAN", {}).items():
            print("debian", program, package)
        for registry in ("PYPI", "NPM"):
            if packages := getattr(row, registry, []):
                print(registry.lower(), name, *packages)


def outcome(name, program):
    """Tries one recipe: what held, and what did not (in a line, and in full)."""
    from recipe import Failed, Recipe

    row = importlib.import_module(f"rows.{name}")
    try:
        recipe = Recipe(program, name, row.SECTION)
    except (LookupError, ValueError) as error:
        return [], f"docs/self-hoster.md: {error}", ""
    try:
        recipe.open_tunnel()
        row.run(recipe)
        if unused := recipe.unused():
            return recipe.steps, f"docs/self-hoster.md: the blocks at the lines {unused} are not tried", ""
        if not recipe.steps:
            return [], "nothing was tried", ""
        return recipe.steps, "", ""
    except Failed as error:
        return recipe.steps, *error.args
    except Exception as error:
        return recipe.steps, f"could not be set up: {error!r}".splitlines()[0], traceback.format_exc()
    finally:
        recipe.close()
        shutil.rmtree(recipe.stack.folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(prog="recipes", description=__doc__.splitlines()[0])
    parser.add_argument("program", nargs="?", type=Path, help="the adit program to run")
    parser.add_argument("--only", default="", help=f"recipes, separated by commas: {', '.join(rows())}")
    parser.add_argument("--verbose", action="store_true", help="what held, too")
    parser.add_argument("--needs", action="store_true", help="print what has to be installed, and try nothing")
    options = parser.parse_args()
    chosen = [name for name in options.only.split(",") if name] or rows()
    if unknown := [name for name in chosen if name not in rows()]:
        parser.error(f"there is no recipe {', '.join(unknown)}")
    if options.needs:
        return needs(chosen)
    if not options.program:
        parser.error("which adit program?")

    # Then what was started ends, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    width = max(map(len, chosen))
    failed = []
    for name in chosen:
        begun = time.monotonic()
        steps, wrong, details = outcome(name, options.program.resolve())
        seconds = time.monotonic() - begun
        print(f"{name:{width}}  {f'FAILED  {wrong}' if wrong else f'passed  {len(steps)} checks, {seconds:.1f} s'}", flush=True)
        if options.verbose:
            print("".join(f"{'':{width}}    {step}\n" for step in steps), end="", flush=True)
        if wrong:
            failed.append(name)
            print(details, file=sys.stderr, flush=True)
    print(f"\n{len(chosen)} recipes: {len(chosen) - len(failed)} passed, {len(failed)} failed{': ' if failed else ''}{', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
