"""Figures of a benchmark: a table on the screen, and numbers in results.json."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.rounds import makes_sense

RESULTS = Path(__file__).with_name("results.json")
ELSEWHERE = "STREAMSERVE_BENCH_RESULTS"  # a file to keep results in instead; empty: none


@dataclass(frozen=True)
class Figure:
    """One measured quantity over several rounds.

    Args:
        name: name of the quantity.
        unit: unit of the values.
        values: value of each round; those that make no sense are ignored.
        thrown: number of measurements that made no sense and were made again.
    """

    name: str
    unit: str
    values: Sequence[float]
    thrown: int = 0

    @classmethod
    def read(cls, name: str, kept: dict[str, Any]) -> Self:
        """Return a figure of results.json."""
        values = [math.nan if value is None else value for value in kept["rounds"]]
        return cls(name, kept["unit"], values, kept.get("thrown", 0))

    @property
    def sound(self) -> list[float]:
        """The values that make sense."""
        return [value for value in self.values if makes_sense(value, self.unit)]

    @property
    def left_out(self) -> int:
        """Number of rounds that made no sense."""
        return len(self.values) - len(self.sound) + self.thrown

    @property
    def measured(self) -> int:
        """Number of all rounds, those that were measured again included."""
        return len(self.values) + self.thrown

    @property
    def is_published(self) -> bool:
        """True if most rounds make sense; a median of fewer would be what chance left over."""
        return 2 * len(self.sound) > len(self.values)

    @property
    def median(self) -> float:
        """The middle one of the values that make sense."""
        return statistics.median(self.sound)

    def as_json(self) -> dict[str, Any]:
        """Return the figure as results.json keeps it: without a median if it is not published."""
        rounds = [round(value, 3) if makes_sense(value, self.unit) else None for value in self.values]
        kept: dict[str, Any] = {"unit": self.unit, "rounds": rounds}
        if self.thrown:
            kept["thrown"] = self.thrown
        if self.is_published:
            kept |= {"median": round(self.median, 3), "minimum": round(min(self.sound), 3)}
        return kept


def report(benchmark: str, figures: Sequence[Figure], kept: Path = RESULTS, **about: Any) -> None:
    """Print the figures and put them into a file in place of the benchmark's earlier ones.

    Args:
        benchmark: name of the benchmark.
        figures: its figures.
        kept: the file (default results.json).
        about: further facts about the measurement, as JSON.
    """
    print(f"\n{benchmark}")
    print(f"  {'':44}{'median':>10}{'min':>10}{'max':>10}  unit")
    for figure in figures:
        print(f"  {figure.name:44}{_values(figure)}  {figure.unit}{_left_out(figure)}")
    where = os.environ.get(ELSEWHERE, str(kept))
    if where:
        _keep(Path(where), benchmark, figures, about)


def _values(figure: Figure) -> str:
    if not figure.is_published:
        return f"{'left out':>30}"
    return "".join(f"{value:10.2f}" for value in (figure.median, min(figure.sound), max(figure.sound)))


def _left_out(figure: Figure) -> str:
    return f"  ({figure.left_out} of {figure.measured} rounds made no sense)" if figure.left_out else ""


def _keep(kept: Path, benchmark: str, figures: Sequence[Figure], about: dict[str, Any]) -> None:
    results = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    results[benchmark] = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "figures": {figure.name: figure.as_json() for figure in figures},
        **about,
    }
    kept.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")
