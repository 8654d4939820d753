"""Fault campaigns: runs of many cut readers, each planned from a seed, and their sum."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from tests.faults.proxy import Fault, Kind, Proxy
from tests.faults.readers import How, Progress, Tally, read_first, read_later

KINDS: tuple[Kind, ...] = ("reset", "reset", "close", "end")
MEAN_CUT = 3_000  # bytes: about 60 blocks
HEADERS = 700  # bytes: a cut below strikes inside the answer's head or the first block
EARLY = 0.15  # share of connections that are cut there
LIMIT = 60.0  # seconds of one run


@dataclass(frozen=True)
class ReaderPlan:
    """The plan of one reader.

    Args:
        how: client that it reads with.
        joins_at: number of chunks that the first reader has when this one joins.
        start: number that it begins with.
    """

    how: How
    joins_at: int = 0
    start: int = 0


@dataclass(frozen=True)
class RunPlan:
    """The plan of one run and its readers; equal seeds make equal plans, at any length."""

    seed: int
    blocks: int
    readers: tuple[ReaderPlan, ...]

    @classmethod
    def of(cls, seed: int, blocks: int) -> RunPlan:
        """Draw one to four readers: the first starts the run, the second works without the SDK."""
        draw = random.Random(seed)
        first = ReaderPlan(cast(How, draw.choice(["stream", "astream"])))
        ways: list[How] = ["raw", "ajoin", "join"]
        later = [_later(way, draw, blocks) for way in ways[: seed % 4]]
        return cls(seed, blocks, (first, *later))

    @property
    def deliveries(self) -> int:
        """The number of chunks that all readers together should get."""
        return sum(self.blocks - reader.start for reader in self.readers)


def _later(how: How, draw: random.Random, blocks: int) -> ReaderPlan:
    joins_at = round(draw.uniform(0, 1) * blocks)
    return ReaderPlan(how, joins_at, round(draw.choice([0, 0, 0.5]) * joins_at))


def cuts(seed: int) -> Callable[[], Fault]:
    """Return a source of faults that cuts every connection somewhere."""
    draw = random.Random(seed)

    def fault() -> Fault:
        early = draw.random() < EARLY
        after = draw.randrange(HEADERS) if early else HEADERS + round(draw.expovariate(1 / MEAN_CUT))
        return Fault(after, draw.choice(KINDS))

    return fault


@dataclass
class Totals:
    """The sum over all runs."""

    runs: int = 0
    seconds: float = 0.0
    connections: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    tallies: list[Tally] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """Return the lines of the summary."""
        readers = Counter(tally.how for tally in self.tallies)
        flaws = ("lost", "repeated", "misordered", "foreign")
        counted = [f"{name} {sum(getattr(tally, name) for tally in self.tallies)}" for name in flaws]
        served = [f"requests answered by each replica: {_listed(self.served)}"] if self.served else []
        return [
            *served,
            f"runs {self.runs}, readers {len(self.tallies)} ({_listed(readers)}), {self.seconds:.1f} s",
            f"connections {self.connections}, cut {self.struck.total()} ({_listed(self.struck)})",
            f"block deliveries {sum(len(tally.numbers) for tally in self.tallies):,}: {', '.join(counted)}",
            f"terminals {sum(tally.terminals for tally in self.tallies)}, "
            f"readers without exactly one: {sum(tally.terminals != 1 for tally in self.tallies)}",
        ]


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items()))


async def carry_out(plan: RunPlan, port: int, totals: Totals) -> list[Tally]:
    """Run a plan through a proxy in front of a port; return the tally of each reader."""
    tallies = [Tally(reader.how, range(reader.start, plan.blocks)) for reader in plan.readers]
    started = time.perf_counter()
    async with Proxy(port, cuts(plan.seed)) as proxy, asyncio.timeout(LIMIT):
        try:
            await _read_all(plan, proxy.url, tallies)
        finally:
            totals.runs += 1
            totals.seconds += time.perf_counter() - started
            totals.connections += proxy.connections
            totals.struck += proxy.struck
            totals.tallies += tallies
    return tallies


async def _read_all(plan: RunPlan, url: str, tallies: list[Tally]) -> None:
    progress = Progress()
    # Marked before the first read, so that no mark is passed unseen.
    marks = [progress.mark(reader.joins_at) for reader in plan.readers]

    async def join(reader: ReaderPlan, mark: asyncio.Future[None], tally: Tally) -> None:
        await mark
        await read_later(reader.how, url, await progress.run_id, tally)

    wish = {"blocks": plan.blocks}
    async with asyncio.TaskGroup() as group:
        group.create_task(read_first(plan.readers[0].how, url, wish, tallies[0], progress))
        for reader, mark, tally in list(zip(plan.readers, marks, tallies, strict=True))[1:]:
            group.create_task(join(reader, mark, tally))
