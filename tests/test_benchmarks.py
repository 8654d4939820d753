"""Tests of the benchmarks and of the pages with their figures; no test asserts a time."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.against import table
from benchmarks.plan import ratio
from benchmarks.report.page import ABSENT, DOCS, render
from benchmarks.report.rows import ROWS, Row, lines, tables
from benchmarks.report.targets import TARGETS
from benchmarks.results import ELSEWHERE, Figure, report
from benchmarks.rounds import LARGEST_RATIO, RESOLUTION, TRIES, difference, makes_sense, quotient, tried
from benchmarks.workload import Order, tokens
from tests.docs import ROOT

TIME_LIMIT = 300  # seconds: it starts a server of each variant
VARIANTS = ("stock", "memory", "sqlite")
COST = "us per token"


@pytest.mark.timeout(TIME_LIMIT)
def test_a_quick_run_measures_every_variant(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "saturated", "paced", "latency", "request", "table"]
    environment = os.environ | {ELSEWHERE: str(results)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(results.read_text(encoding="utf-8"))
    names = found["saturated"]["figures"].keys()
    assert {f"{variant} {chain}" for variant in VARIANTS for chain in ("text", "messages")} <= names
    parts = [part["median"] for name, part in found["request"]["figures"].items() if "of that" in name]
    assert sum(parts) == pytest.approx(found["request"]["figures"]["memory: to the first token"]["median"], rel=0.01)
    for row in ROWS:
        assert {*row.figures, row.ratio} <= found["table"]["figures"].keys()
    for target in TARGETS:
        if target.benchmark in found:
            assert target.figure in found[target.benchmark]["figures"]


async def test_a_model_says_as_many_tokens_as_it_is_asked_for() -> None:
    for pace in ("hot", "yielding", "10000"):
        order = Order.read(f"7 {pace}")
        assert len([token async for token in tokens(order)]) == order.count == 7


def test_a_comparison_is_of_pairs_that_both_trees_have() -> None:
    cost, other = ("memory text", COST), ("stock text", COST)
    turns = [({cost: 10.0, other: 1.0}, {cost: 8.0}), ({cost: 12.0}, {cost: 12.0}), ({cost: 9.0}, {cost: 0.0})]
    lines = list(table("saturated", turns))
    assert [line.split() for line in lines[2:]] == [
        ["memory", "text", "11.000", "10.000", "1.125", "1.000", "1.250", "us", "per", "token"]
    ]


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (7.9, COST, True),
        (RESOLUTION, COST, True),
        (RESOLUTION / 2, COST, False),
        (0.0, COST, False),
        (-2.6, COST, False),
        (math.inf, COST, False),
        (-math.inf, COST, False),
        (math.nan, COST, False),
        (110.0, "x", True),
        (17_439_499_500.0, "x", False),
        (2 * LARGEST_RATIO, "ratio", False),
        (2 * LARGEST_RATIO, "us", True),
        (0, "streams", True),
        (-1, "streams", False),
        (math.nan, "streams", False),
    ],
)
def test_costs_and_ratios_make_sense_above_zero(value: float, unit: str, expected: bool) -> None:
    assert makes_sense(value, unit) is expected


@pytest.mark.parametrize("below", [0.0, -2.6, 1e-9, math.inf, math.nan])
def test_a_ratio_has_a_denominator_that_makes_sense(below: float) -> None:
    assert math.isnan(quotient(20.0, below))
    assert math.isnan(quotient(below, 20.0))
    assert math.isnan(difference(20.0, below))
    found = ratio("memory text / raw text", [16.0, 17.0, 18.0], [8.0, below, 8.0])
    assert found.sound == [2.0, 2.25]
    assert found.left_out == 1


def test_a_quotient_of_sound_costs_is_their_ratio() -> None:
    assert quotient(20.0, 8.0) == 2.5
    assert difference(20.0, 8.0) == 12.0


@pytest.mark.parametrize(
    ("measured", "found", "thrown"),
    [([5.0], 5.0, 0), ([-1.0, 5.0], 5.0, 1), ([0.0, math.nan, -3.0, 5.0], -3.0, TRIES - 1)],
)
def test_a_senseless_round_is_measured_again(measured: Sequence[float], found: float, thrown: int) -> None:
    values = iter(measured)
    assert tried(lambda: next(values), lambda value: [value]) == (found, thrown)


def test_a_figure_is_published_without_senseless_rounds() -> None:
    figure = Figure("raw text", COST, [8.0, -2.6, 8.2, 8.1, math.nan], thrown=2)
    assert figure.is_published
    assert (figure.median, figure.left_out, figure.measured) == (8.1, 4, 7)
    kept = figure.as_json()
    assert kept == {"unit": COST, "rounds": [8.0, None, 8.2, 8.1, None], "thrown": 2, "median": 8.1, "minimum": 8.0}
    again = Figure.read("raw text", json.loads(json.dumps(kept)))
    assert (again.sound, again.left_out, again.measured) == (figure.sound, 4, 7)


@pytest.mark.parametrize("values", [[-591.0, 1458.0], [0.0], [math.inf, math.nan, 8.0]])
def test_a_figure_with_too_few_sound_rounds_is_left_out(
    values: Sequence[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(ELSEWHERE, str(tmp_path / "results.json"))
    report("hot", [Figure("process text", "us", values)])
    printed = capsys.readouterr().out
    assert "left out" in printed
    assert f"of {len(values)} rounds made no sense" in printed
    kept = json.loads((tmp_path / "results.json").read_text("utf-8"))["hot"]["figures"]["process text"]
    assert "median" not in kept


@pytest.mark.parametrize("page", ["performance.md", "figures.md"])
def test_each_page_of_figures_is_what_the_results_say(page: str) -> None:
    path = DOCS / page
    assert path.read_text(encoding="utf-8") == render()[path], "run `python -m benchmarks.report.page`"


def test_a_row_shows_medians_and_the_range_of_the_ratio() -> None:
    row = Row("prompt, model, text parser", "text", 10)
    theirs, ours = Figure(row.figures[0], COST, [150, 160, 170]), Figure(row.figures[1], COST, [15, 20, 17])
    figures = {each.name: each for each in (theirs, ours, ratio(row.ratio, theirs.values, ours.values))}
    assert "| prompt, model, text parser | 160 | 17 | 10 | 8 | 10 | >= 10 |" in list(lines(figures))
    assert sum(ABSENT in line for line in lines(figures)) == len(ROWS) - 1


def test_a_row_without_sense_is_left_out() -> None:
    row = Row("prompt, model, text parser", "text", 10)
    theirs, ours = Figure(row.figures[0], COST, [150, 160]), Figure(row.figures[1], COST, [15, -2])
    figures = {each.name: each for each in (theirs, ours, ratio(row.ratio, theirs.values, ours.values))}
    assert "| prompt, model, text parser | 155 | left out | left out |  |  | >= 10 |" in list(lines(figures))


def test_tables_stand_by_version_the_newest_last(tmp_path: Path) -> None:
    for version in ("1.10.0", "1.7.2", "1.8.4"):
        (tmp_path / f"{version}.json").write_text(json.dumps({"table": {"of": version}}))
    assert [table["of"] for table in tables(tmp_path).values()] == ["1.7.2", "1.8.4", "1.10.0"]


def test_the_targets_stand_without_figures() -> None:
    assert render({})[DOCS / "performance.md"].count(ABSENT) == len(TARGETS)


def test_the_pages_leave_out_what_makes_no_sense() -> None:
    figures = {
        "raw text": {"unit": COST, "rounds": [8.0, -2.6, 8.2], "median": 8.0, "minimum": -2.6},
        "stock text / memory text": {"unit": "x", "rounds": [1e9, 2e9, 8.0], "median": 1e9, "minimum": 8.0},
    }
    pages = render({"saturated": {"python": "3.11", "machine": "any", "figures": figures}})
    text = pages[DOCS / "figures.md"]
    assert "| raw text | 8.1 | 8 | 8.2 | us per token | 1 of 3 |" in text
    assert "| stock text / memory text | left out |  |  | x | 2 of 3 |" in text
    assert "| CPU per token, 50 streams, text: stock over ours | >= 3.5 | left out: 2 of 3 |" in "".join(pages.values())
    for page in pages.values():
        assert "Rounds thrown away: 3 of 6. Figures left out: 1 of 2." in page
