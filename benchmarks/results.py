"""What a benchmark found: a table on the screen, and its numbers in results.json."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.json")
ELSEWHERE = "STREAMSERVE_BENCH_RESULTS"  # a file to keep results in instead; empty: none


@dataclass(frozen=True)
class Figure:
    """One measured quantity over several rounds.

    Args:
        name: what was measured.
        unit: of the values.
        values: one of each round.
    """

    name: str
    unit: str
    values: Sequence[float]

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.values)

    def as_json(self) -> dict[str, Any]:
        """The figure as it is kept."""
        rounded = [round(value, 3) for value in self.values]
        return {"unit": self.unit, "median": round(self.median, 3), "minimum": min(rounded), "rounds": rounded}


def report(benchmark: str, figures: Sequence[Figure]) -> None:
    """Prints the figures and puts them into results.json in place of the benchmark's earlier ones."""
    print(f"\n{benchmark}")
    print(f"  {'':44}{'median':>10}{'min':>10}{'max':>10}  unit")
    for figure in figures:
        low, high = min(figure.values), max(figure.values)
        print(f"  {figure.name:44}{figure.median:10.2f}{low:10.2f}{high:10.2f}  {figure.unit}")
    _keep(benchmark, figures)


def _keep(benchmark: str, figures: Sequence[Figure]) -> None:
    where = os.environ.get(ELSEWHERE, str(RESULTS))
    if not where:
        return
    kept = Path(where)
    results = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    results[benchmark] = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "figures": {figure.name: figure.as_json() for figure in figures},
    }
    kept.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")
