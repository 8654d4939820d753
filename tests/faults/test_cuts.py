"""Tests that every reader gets every block once, in order, with one end, wherever its connections are cut.

Runs are short in `make test`; `make faults` gives the same seeds longer ones.
"""

from __future__ import annotations

import pytest

from tests.faults.campaign import RunPlan, Totals, carry_out
from tests.faults.server import CountingServer

SEEDS = range(16)
SHORT, LONG = 250, 6_000  # blocks of one run
PROMISED = 200_000  # deliveries of the long campaign


@pytest.fixture
def blocks(pytestconfig: pytest.Config) -> int:
    return LONG if pytestconfig.getoption("--long") else SHORT


@pytest.mark.parametrize("seed", SEEDS)
async def test_cut_readers_get_every_block_once(seed: int, blocks: int, server: CountingServer, totals: Totals) -> None:
    for tally in await carry_out(RunPlan.of(seed, blocks), server.port, totals):
        flaws = {"lost": tally.lost, "repeated": tally.repeated, "misordered": tally.misordered}
        assert tally.flawless, (tally.how, flaws, tally.terminals)


def test_the_long_campaign_is_as_long_as_promised() -> None:
    assert sum(RunPlan.of(seed, LONG).deliveries for seed in SEEDS) >= PROMISED


@pytest.mark.parametrize("length", [SHORT, LONG])
def test_a_seed_makes_the_same_readers_at_any_length(length: int) -> None:
    ways = [[reader.how for reader in RunPlan.of(seed, length).readers] for seed in SEEDS]
    assert ways == [[reader.how for reader in RunPlan.of(seed, SHORT).readers] for seed in SEEDS]
    assert {len(readers) for readers in ways} == {1, 2, 3, 4}
