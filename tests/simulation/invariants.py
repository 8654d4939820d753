"""Invariants: the facts that hold in every world, whatever happens in it."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import orjson

from streamserve.errors import ServeError
from streamserve.runs.run import Run
from streamserve.stores import MemoryStore, RunRecord, RunStore
from streamserve.stores.redis import RedisStore
from streamserve.stores.sqlite import SqliteStore
from tests.simulation.chains import STAGE
from tests.simulation.loop import PROCESS

if TYPE_CHECKING:
    from tests.simulation.redis import Redis
    from tests.simulation.workers import Worker
    from tests.simulation.world import World

# Log records of level ERROR that tell of a fault of the world, not of ours.
EXPECTED = re.compile(
    r"StoreDown|Fenced|the model failed|ValueError|a step that ignores cancellation|RunTimeout|code.: .timeout"
    r"|run failed: internal (Node)?CancelledError"  # the model's own
)
TERMINALS = ("end", "error")


def live_runs(world: World) -> list[str]:
    """Return the ids of the runs that have no end yet, or whose owner does not know it yet."""
    owned = [run_id for worker in world.workers for run_id in worker.runs._live]
    return owned + [record.run_id for _, record, _ in _stored(world) if not record.ended]


async def hold_in_store(world: World) -> None:
    """Check what the stores hold at the end."""
    for worker in world.workers:
        await worker.runs.store.reap(time.time())
    for worker, record, _ in list(_stored(world)):
        store = worker.runs.store
        blocks = [block async for block in _blocks(store, record)]
        # A worker with Redis may keep pieces of a run that another one dropped; each endpoint reads the record first.
        _are_whole(record, [] if record.purged and world.kind == "redis" else blocks)
        if record.thread is not None:
            assert await store.ahead(RunRecord("new", "", "", "", 0.0, thread=record.thread)) == [], "a thread is held"
    for worker in world.workers:
        runs = worker.runs
        assert not runs._live, f"{worker.name} has live runs: {list(runs._live)}"
        assert runs.busy == 0, f"{worker.name} counts {runs.busy} runs"
        assert len(runs._readers) == 0, f"{worker.name} has {len(runs._readers)} readers"
        assert not worker.requests, f"{worker.name} has open requests: {worker.requests}"
        assert not _held(runs.store), f"{worker.name} holds {_held(runs.store)}"
        assert not worker.lost_duties, f"{worker.name} has ended {worker.lost_duties}"
    if world.redis is not None:
        _no_key_is_left(world, world.redis)
    told = {record.run_id: record.status for _, record, _ in _stored(world)}
    for run_id, status in world.told.items():
        # A worker's memory is gone with it.
        assert told.get(run_id, status) == status, f"{run_id} is {told[run_id]}, and an answer said {status}"
    assert not STAGE.broken, STAGE.broken
    for network in world.networks:
        lost = [each for each in network.connections if not (each.finished or each.broken)]
        assert not lost, f"{len(lost)} open connections"
    if not world.is_disturbed:
        broken = [each for each in world.sessions if sum(one.path.endswith("/stream") for one in each.connections) > 1]
        assert not broken, "a stream was opened again, though nothing happened to it"
    if world.kind == "sqlite":
        with world.file() as connection:
            _are_counted(connection, {worker.runs.store._worker.name for worker in world.workers})  # type: ignore[attr-defined]
    assert not open_generators(), f"open generators: {open_generators()}"


def _held(store: RunStore) -> list[str]:
    """Return the runs that a store counts as its worker's, or keeps the newest blocks of for readers."""
    if isinstance(store, RedisStore):
        return [*store._worker.owned, *store._worker.pending_discard, *store._tails]
    return [*store._own, *store._tails] if isinstance(store, SqliteStore) else []


def _no_key_is_left(world: World, redis: Redis) -> None:
    """Check that Redis keeps no request of an ended run, and counts each, unless a worker died at that moment."""
    if any(worker.killed or worker.stopping for worker in [*world.workers, *world.past]):
        return
    requests = redis.ask("KEYS", "streamserve:{*}:request")
    assert not requests, f"requests are left: {requests}"
    counted = {name.decode() for name in redis.ask("HKEYS", "streamserve:{ended}:info")}
    uncounted = [record.run_id for record in world.records() if not record.purged and record.run_id not in counted]
    assert not uncounted, f"no reaper will drop {uncounted}"


@contextmanager
def watch_cancels(world: World) -> Iterator[None]:
    """Note a cancel of a run for want of readers while its own process counts one."""
    cancel = Run.cancel

    def watched(run: Run, reason: ServeError) -> None:
        worker: Any = PROCESS.get()
        if reason.detail == "The last reader left" and worker.runs._readers._counts[run.run_id]:
            world.loop.errors.append(f"run {run.run_id} is cancelled, and has a reader")
        cancel(run, reason)

    with mock.patch.object(Run, "cancel", watched):
        yield


def _are_counted(connection: sqlite3.Connection, names: set[str]) -> None:
    """Check that no row is left over of the workers with these names, and that the totals are those of the rows."""
    kept = "SELECT count(*), coalesce(sum(size), 0) FROM runs WHERE end_number IS NOT NULL AND forget_at IS NULL"
    assert connection.execute(kept).fetchone() == connection.execute("SELECT runs, bytes FROM totals").fetchone()
    sizes = connection.execute(
        "SELECT run_id, size, coalesce(length(output), 0)"
        " + (SELECT coalesce(sum(length(data)), 0) FROM blocks WHERE run = number)"
        " FROM runs WHERE end_number IS NOT NULL AND forget_at IS NULL"
    ).fetchall()
    assert not [row for row in sizes if row[1] != row[2]], sizes
    gone = "SELECT count(*) FROM blocks WHERE run NOT IN (SELECT number FROM runs WHERE forget_at IS NULL)"
    assert connection.execute(gone).fetchone() == (0,), "blocks without a run"
    reading = [row for row in connection.execute("SELECT run_id, worker FROM readers") if row[1] in names]
    assert not reading, f"readers are left: {reading}"


async def _blocks(store: Any, record: RunRecord) -> Any:
    cursor = 0
    while True:
        found, at_end = await store.read(record.run_id, cursor, 100)
        for block in found:
            yield block
        cursor += len(found)
        if at_end or not found:
            return


def _are_whole(record: RunRecord, blocks: list[bytes]) -> None:
    about = f"run {record.run_id} of {record.chain}/{record.endpoint}, {record.status}"
    assert record.ended, f"{about}: no end"
    if record.purged:
        assert not blocks, f"{about}: dropped, and has blocks"
        return
    fields = [_fields(block) for block in blocks]
    assert [found.get("id") for found in fields] == [str(n) for n in range(1, len(blocks) + 1)], f"{about}: ids"
    kinds = [found["event"] for found in fields]
    assert [kind in TERMINALS for kind in kinds] == [False] * (len(kinds) - 1) + [True], f"{about}: {kinds}"
    assert record.last_id == len(blocks), f"{about}: last id {record.last_id} of {len(blocks)}"
    assert (record.status == "done") == (kinds[-1] == "end"), f"{about}: {kinds[-1]}"
    if record.status != "done":
        assert orjson.loads(fields[-1]["data"])["code"] == (record.error or {})["code"], about


def _fields(block: bytes) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in block.decode().splitlines() if ": " in line)


def open_generators() -> list[str]:
    """Return the chains' generators that are open in living processes."""
    return [label for label, process in STAGE.open.items() if not process.killed]


def nothing_is_left(world: World) -> None:
    """Check that processes that have stopped left no task and no timer."""
    current = asyncio.current_task()
    tasks = [task for task in world.loop.tasks if task is not current and _is_alive(task.process)]
    assert not tasks, f"tasks left: {tasks}"
    timers = [timer for timer in world.loop.timers if _is_alive(timer._context.get(PROCESS))]
    assert not timers, f"timers left: {timers}"


def _is_alive(process: Worker | None) -> bool:
    return process is not None and not process.killed


def nothing_failed(world: World) -> None:
    """Check that the loop met no exception that nobody took, and that we logged no fault of our own."""
    assert not world.loop.errors, f"the loop met {world.loop.errors}"
    faults = [line for line in world.logged if not EXPECTED.search(line)]
    assert not faults, f"logged: {faults}"


def _stored(world: World) -> Iterator[tuple[Worker, RunRecord, None]]:
    """Yield all runs in the stores of the workers that live: a worker that reaches each, and its record."""
    if world.kind == "memory":
        for worker in world.workers:
            assert isinstance(worker.runs.store, MemoryStore)
            for entry in list(worker.runs.store._entries.values()):
                yield worker, entry.record, None
    else:
        for record in world.records():
            yield world.workers[0], record, None
