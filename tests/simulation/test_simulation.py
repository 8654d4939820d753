"""Simulated worlds: the same seed makes the same world, and nothing is lost, repeated or left over in any of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.campaign import FAULTS, KINDS, Case, at_every_place, by_seed, fault_of, places
from tests.simulation.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
# One world per line: a fault was found in it, and mended.
REGRESSIONS = Path(__file__).with_name("regressions.txt")


def cases_of(path: Path) -> list[Case]:
    """Return the cases of a file; comments begin with #."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [Case.parse(line) for line in lines if line]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_world_without_faults_ends_well(scenario: str, kind: str) -> None:
    assert fault_of(Case(scenario, kind, 1, "none")) is None


@pytest.mark.parametrize("fault", FAULTS)
def test_a_stream_survives_a_fault_at_some_places(fault: str) -> None:
    cases = [case for case in at_every_place("stream", "sqlite", places("stream", "sqlite")) if case.fault == fault]
    assert {str(case): found for case in cases[::4] if (found := fault_of(case))} == {}


def test_some_seeds_find_nothing() -> None:
    assert {str(case): found for case in by_seed(range(100)) if (found := fault_of(case))} == {}


@pytest.mark.parametrize("case", cases_of(REGRESSIONS), ids=str)
def test_a_fault_that_was_found_stays_mended(case: Case) -> None:
    assert fault_of(case) is None


def test_a_seed_replays_to_the_same_trace() -> None:
    traces = {_trace("recover:sqlite:7::-1"), _trace("recover:sqlite:7::-1")}
    assert len(traces) == 1
    assert len(traces.pop().splitlines()) > 5


def _trace(case: str) -> str:
    command = [sys.executable, "-m", "tests.simulation", "--replay", case]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False).stdout
