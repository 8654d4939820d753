"""Cost of a store: CPU per block at a number of runs, and the time of a block from the append to a reader.

Runs have 50 blocks a second, each stored by the server's own Writer. CPU is that of all OS threads of the process, less
the cost of the pacing alone. Readers are in the same process, and in one of their own.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
import uuid
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from benchmarks.plan import Plan
from benchmarks.results import Figure, report
from benchmarks.rounds import difference, tried
from benchmarks.servers.addresses import addresses
from streamserve.lifespan import freeze_garbage_collector
from streamserve.runs.writer import Writer
from streamserve.settings import Settings
from streamserve.stores import Outcome, RunRecord, RunStore, store_at

ROOT = Path(__file__).parents[1]
RATE = 50.0  # blocks a second of one run
COUNTS = (20, 100, 200, 400)
SECONDS = 3.0  # long enough for the store to move older blocks on
READ_RUNS = 10
PADDING = b" " * 150  # a token's block has about 170 bytes
END = b"end"
LIMIT = 60.0
T = TypeVar("T")


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RunStore]:
    """Open a store as the server does."""
    store = store_at(Settings(store=url, _env_file=None))
    for tries_left in reversed(range(100)):
        try:
            await store.open()
            break
        except Exception:
            if not tries_left:
                raise
            await asyncio.sleep(0.05)
    try:
        yield store
    finally:
        await store.close()


async def follow(store: RunStore, run_id: str) -> list[float]:
    """Read a run to its end; return the seconds that each block took."""
    woken, delays, cursor = asyncio.Event(), [], 0
    unsubscribe = store.subscribe(run_id, woken.set)
    try:
        while True:
            woken.clear()
            blocks, at_end = await store.read(run_id, cursor, 256)
            now = time.monotonic()
            delays += [now - float(block) for block in blocks if block != END]
            cursor += len(blocks)
            if at_end:
                return delays
            if not blocks:
                await woken.wait()
    finally:
        unsubscribe()


async def _write(store: RunStore | None, record: RunRecord, offset: float) -> None:
    writer = Writer(record, store, 10.0, lambda _: None) if store else None
    blocks = round(SECONDS * RATE)
    due = time.monotonic() + offset
    for _ in range(blocks):
        due += 1 / RATE
        await asyncio.sleep(due - time.monotonic())
        if writer:
            writer.write(b"%.7f%s" % (time.monotonic(), PADDING))
    if writer:
        await writer.finish(END, Outcome("done"))


async def _acquired(store: RunStore, count: int) -> list[RunRecord]:
    runs = [RunRecord(str(uuid.uuid4()), "chain", "stream", "ann", time.time()) for _ in range(count)]
    for run in runs:
        await store.acquire(run)
    return runs


async def _load(store: RunStore | None, runs: list[RunRecord]) -> float:
    """Return the CPU seconds of writing all runs."""
    began = time.process_time()
    await asyncio.gather(*(_write(store, run, index / len(runs) / RATE) for index, run in enumerate(runs)))
    return time.process_time() - began


async def cpu_round(url: str, count: int) -> float:
    """Return microseconds of CPU per block."""
    async with opened(url) as store, asyncio.timeout(LIMIT):
        runs = await _acquired(store, count)
        pacing = await _load(None, runs)
        return (await _load(store, runs) - pacing) / (count * SECONDS * RATE) * 1e6


async def delay_round(url: str, count: int, *, elsewhere: bool) -> list[float]:
    """Return the seconds from append to reader, of each block of some runs."""
    async with opened(url) as store, asyncio.timeout(LIMIT):
        runs = await _acquired(store, count)
        read = [run.run_id for run in runs[:: max(1, count // READ_RUNS)]]
        if not elsewhere:
            found = asyncio.gather(*(follow(store, run_id) for run_id in read))
            await _load(store, runs)
            return [delay for delays in await found for delay in delays]
        command = [sys.executable, "-m", "benchmarks.stores", url, *read]
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        await process.stdout.readline()  # all readers are subscribed
        await _load(store, runs)
        return list(json.loads(await process.stdout.read()))


def _cost(url: str, count: int) -> float:
    return run(cpu_round(url, count))


def _delays(name: str, rounds: list[list[float]]) -> list[Figure]:
    at = [[statistics.quantiles(delays, n=100)[p - 1] * 1000 for delays in rounds] for p in (50, 99)]
    return [Figure(f"{name} p50", "ms", at[0]), Figure(f"{name} p99", "ms", at[1])]


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run work in the server's kind of event loop, with its setting of the garbage collector."""
    freeze_garbage_collector(Settings(_env_file=None).gc_threshold)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def figures_of(name: str, url: str, rounds: int) -> list[Figure]:
    """Measure all figures of one store."""
    figures = []
    for count in COUNTS:
        run(cpu_round(url, count))
        costs = [tried(partial(_cost, url, count), lambda cost: [cost]) for _ in range(rounds)]
        thrown = sum(cost.thrown for cost in costs)
        figures.append(Figure(f"{name}, {count} runs: CPU per block", "us", [cost.found for cost in costs], thrown))
        here = [run(delay_round(url, count, elsewhere=False)) for _ in range(rounds)]
        figures += _delays(f"{name}, {count} runs: to a reader", here)
        if name != "memory":
            there = [run(delay_round(url, count, elsewhere=True)) for _ in range(rounds)]
            figures += _delays(f"{name}, {count} runs: to another process", there)
    return figures


def main(plan: Plan) -> None:
    """Measure CPU per block of each store, and the time from an append to a reader, at 50 blocks a second per run."""
    with addresses() as urls:
        figures = [figure for name, url in urls.items() for figure in figures_of(name, url, plan.rounds)]
    report("stores", [*figures, *_added(figures)])


def _added(figures: list[Figure]) -> list[Figure]:
    """Return the cost of each store above that of memory, round by round."""
    known = {figure.name: figure for figure in figures}
    added = []
    for figure in figures:
        store, _, what = figure.name.partition(", ")
        if store != "memory" and what.endswith(("CPU per block", "to a reader p50")):
            below = known[f"memory, {what}"].values
            values = [difference(*pair) for pair in zip(figure.values, below, strict=True)]
            added.append(Figure(f"{figure.name}, over memory", figure.unit, values))
    return added


async def _read_elsewhere(url: str, run_ids: list[str]) -> None:
    async with opened(url) as store:
        found = asyncio.gather(*(follow(store, run_id) for run_id in run_ids))
        await asyncio.sleep(0.1)  # all are subscribed
        print("ready", flush=True)
        print(json.dumps([delay for delays in await found for delay in delays]))


if __name__ == "__main__":
    run(_read_elsewhere(sys.argv[1], sys.argv[2:]))
