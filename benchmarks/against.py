"""Two checkouts side by side: the benchmarks of each take turns, one round at a time.

`python -m benchmarks NAME ... --against PATH`. The other checkout runs its own benchmarks on its own code, with
PATH/.venv/bin/python where there is one. Nothing is kept in results.json.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.results import ELSEWHERE
from deploy.services import ROOT

# Checkouts from before `--rounds` have these constants instead; they measure starts as this checkout does.
ONE_ROUND = """
import importlib.util, sys
from benchmarks import first_token, hostile, instructions, memory, plan, stores, upstream
plan.Plan.rounds = 1
for module in (first_token, hostile, memory, stores, upstream):
    module.ROUNDS = 1
instructions.ROUNDS = [instructions.ROUNDS[{first} % len(instructions.ROUNDS)]]
found = importlib.util.spec_from_file_location("benchmarks.startup", {startup!r})
sys.modules["benchmarks.startup"] = importlib.util.module_from_spec(found)
found.loader.exec_module(sys.modules["benchmarks.startup"])
from benchmarks.__main__ import main
main()
"""
SOURCES = ("src", "sdk/python/src", "sdk/src")

Found = dict[tuple[str, str], float]  # by name and unit


class Pair(NamedTuple):
    """The same figure of one round in both checkouts."""

    this: float
    other: float


def compare(names: Sequence[str], other: Path, rounds: int, flags: Sequence[str] = ()) -> None:
    """Run benchmarks in this checkout and in another, and print a table of each with the ratio of the two.

    Args:
        names: names of the benchmarks.
        other: the folder of the other checkout.
        rounds: number of turns of each checkout.
        flags: flags of the command line, for both checkouts.

    Raises:
        RuntimeError: a benchmark failed; the message has the end of what it printed.
    """
    print(f"{ROOT} (this) against {other} (other), {rounds} rounds each")
    for name in names:
        turns = [_turn([*flags, name], other, number) for number in range(rounds)]
        print(*table(name, turns), sep="\n", flush=True)


def table(name: str, turns: Sequence[tuple[Found, Found]]) -> Iterator[str]:
    """Yield the lines of a benchmark's table: the figures that both checkouts have, in the order of this one.

    Args:
        name: name of the benchmark.
        turns: figures of this checkout and of the other, for each round.
    """
    yield f"\n{name}"
    yield f"  {'':52}{'this':>11}{'other':>11}{'this/other':>12}{'least':>9}{'most':>9}  unit"
    for figure, unit in turns[0][0]:
        pairs = list(_pairs((figure, unit), turns))
        if pairs:
            ratios = [this / other for this, other in pairs]
            this, other = (statistics.median(values) for values in zip(*pairs, strict=True))
            middle = statistics.median(ratios)
            yield (
                f"  {figure.strip():52}{this:11.3f}{other:11.3f}{middle:12.3f}"
                f"{min(ratios):9.3f}{max(ratios):9.3f}  {unit}"
            )


def _pairs(figure: tuple[str, str], turns: Sequence[tuple[Found, Found]]) -> Iterator[Pair]:
    for this, other in turns:
        if figure in this and other.get(figure, 0) > 0:
            yield Pair(this[figure], other[figure])


def _turn(named: Sequence[str], other: Path, number: int) -> tuple[Found, Found]:
    found = {}
    for tree in (ROOT, other) if number % 2 == 0 else (other, ROOT):  # neither is always the first
        print(f"{named[-1]}, round {number + 1}: {tree}", file=sys.stderr, flush=True)
        found[tree] = _one_round(named, tree, number)
    return found[ROOT], found[other]


def _one_round(named: Sequence[str], tree: Path, number: int) -> Found:
    python = tree / ".venv" / "bin" / "python"
    with TemporaryDirectory() as folder:
        results = Path(folder) / "results.json"
        environment = os.environ | {ELSEWHERE: str(results)}
        if not python.exists():
            python = Path(sys.executable)
            environment["PYTHONPATH"] = os.pathsep.join(str(tree / source) for source in SOURCES)
        command = [str(python), *_arguments(tree, number), *named]
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
        if done.returncode or not results.exists():
            raise RuntimeError(f"{named[-1]} failed in {tree}:\n{(done.stdout + done.stderr)[-2000:]}")
        figures = json.loads(results.read_text("utf-8"))[named[-1]]["figures"]
    return {(figure, found["unit"]): found["median"] for figure, found in figures.items() if "median" in found}


def _arguments(tree: Path, number: int) -> list[str]:
    if '"--rounds"' in (tree / "benchmarks" / "__main__.py").read_text("utf-8"):
        return ["-m", "benchmarks", "--rounds", "1", "--first", str(number)]
    startup = str(ROOT / "benchmarks" / "startup.py")
    return ["-c", ONE_ROUND.format(first=number, startup=startup)]
