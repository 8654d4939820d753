"""Simulated worlds: the same seed makes the same world, and nothing is lost, repeated or left over in any of them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.simulation.campaign import FAULTS, KINDS, OF_REDIS, Case, at_every_place, by_seed, fault_of, places
from tests.simulation.scenarios import SCENARIOS
from tests.simulation.world import EPOCH, World

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
    kind = "redis" if fault in OF_REDIS else "sqlite"
    cases = [case for case in at_every_place("stream", kind, places("stream", kind)) if case.fault == fault]
    assert {str(case): found for case in cases[::8] if (found := fault_of(case))} == {}


def test_some_seeds_find_nothing() -> None:
    assert {str(case): found for case in by_seed(range(30)) if (found := fault_of(case))} == {}


@pytest.mark.parametrize("case", cases_of(REGRESSIONS), ids=str)
def test_a_fault_that_was_found_stays_mended(case: Case) -> None:
    assert fault_of(case) is None


@pytest.mark.parametrize("case", ["recover:sqlite:10::-1", "recover:redis:10::-1", "share:redis:1013::-1"])
def test_a_seed_replays_to_the_same_trace(case: str) -> None:
    traces = {_trace(case), _trace(case)}
    assert len(traces) == 1
    assert len(traces.pop().splitlines()) > 5


@pytest.mark.parametrize("case", ["recover:redis:10::-1", "join:sqlite:7::-1"])
def test_a_world_does_not_depend_on_those_before_it(case: str) -> None:
    traces = []
    for _ in range(3):
        world = Case.parse(case).run()
        traces.append(world.trace)
        fault_of(Case("two_readers", world.kind, 1, "none"))
    assert traces[1] == traces[2]  # the first one may fill caches


def test_redis_keeps_the_time_of_the_world() -> None:
    async def scenario(world: World) -> None:
        async with Redis(port=6379) as redis:
            await redis.set("soon", "1", px=70_000)
            await redis.set("late", "1", px=100_000)
            await redis.eval("local call = redis.call return call('PEXPIRE', KEYS[1], 75000)", 1, "soon")
            await asyncio.sleep(72.0)
            assert await redis.mget("soon", "late") == [b"1", b"1"]
            await asyncio.sleep(8.0)
            assert await redis.mget("soon", "late") == [None, b"1"]
            script = "local call = redis.call return call('TIME')[1]"
            assert int(await redis.eval(script, 0)) == int(EPOCH + world.loop.time())

    World(1, kind="redis", workers=2).run(scenario)


def _trace(case: str) -> str:
    command = [sys.executable, "-m", "tests.simulation", "--replay", case]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False).stdout
