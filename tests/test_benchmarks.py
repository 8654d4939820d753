"""The benchmarks run, and docs/performance.md says what they found; no test asserts a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.against import table
from benchmarks.workload import Order, tokens
from scripts.performance_page import ABSENT, PAGE, TARGETS, render
from tests.docs import ROOT

TIME_LIMIT = 300  # seconds: it starts a server of each variant
VARIANTS = ("stock", "memory", "sqlite")


@pytest.mark.timeout(TIME_LIMIT)
def test_a_quick_run_measures_every_variant(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "saturated", "paced", "request"]
    environment = os.environ | {"STREAMSERVE_BENCH_RESULTS": str(results)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(results.read_text(encoding="utf-8"))
    names = found["saturated"]["figures"].keys()
    assert {f"{variant} {chain}" for variant in VARIANTS for chain in ("text", "messages")} <= names
    parts = [part["median"] for name, part in found["request"]["figures"].items() if "of that" in name]
    assert sum(parts) == pytest.approx(found["request"]["figures"]["memory: to the first token"]["median"], rel=0.01)
    for target in TARGETS:
        if target.benchmark in found:
            assert target.figure in found[target.benchmark]["figures"]


def test_a_comparison_is_of_pairs_that_both_trees_have() -> None:
    cost, other = ("memory text", "us per token"), ("stock text", "us per token")
    turns = [({cost: 10.0, other: 1.0}, {cost: 8.0}), ({cost: 12.0}, {cost: 12.0}), ({cost: 9.0}, {cost: 0.0})]
    lines = list(table("saturated", turns))
    assert [line.split() for line in lines[2:]] == [
        ["memory", "text", "11.000", "10.000", "1.125", "1.000", "1.250", "us", "per", "token"]
    ]


async def test_a_model_says_as_many_tokens_as_it_is_asked_for() -> None:
    for pace in ("hot", "yielding", "10000"):
        order = Order.read(f"7 {pace}")
        assert len([token async for token in tokens(order)]) == order.count == 7


def test_the_performance_page_is_what_the_results_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run `python -m scripts.performance_page`"


def test_the_performance_page_stands_without_figures() -> None:
    assert render({}).count(ABSENT) == len(TARGETS)
