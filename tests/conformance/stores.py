"""The stores that the conformance suite tests: one line each."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from streamserve.stores import MemoryStore, Outcome, RunRecord, RunStore
from streamserve.stores.bounds import Bounds
from streamserve.stores.redis import RedisStore
from streamserve.stores.sqlite import SqliteStore
from tests.stores.servers import shared_cluster, shared_redis

DONE = Outcome("done")


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        """Return the seconds since the epoch."""
        return self.now


@dataclass
class Options:
    """Arguments of every store.

    Args:
        bounds: bounds of the ended runs.
        clock: clock of the store.
        cancelled: ids of the runs whose owner was told to cancel them.
    """

    bounds: Bounds
    clock: Clock = field(default_factory=Clock)
    cancelled: list[str] = field(default_factory=list)


Factory = Callable[[Options], AbstractAsyncContextManager[RunStore]]


@asynccontextmanager
async def memory(options: Options) -> AsyncIterator[RunStore]:
    """Open a store in this process."""
    store = MemoryStore(
        bounds=options.bounds,
        clock=options.clock,
    )
    store.on_cancel = options.cancelled.append
    yield store


@asynccontextmanager
async def sqlite(options: Options) -> AsyncIterator[RunStore]:
    """Open a store on a file of its own."""
    with TemporaryDirectory() as folder:
        store = SqliteStore(
            Path(folder) / "runs.sqlite",
            bounds=options.bounds,
            clock=options.clock,
        )
        store.on_cancel = options.cancelled.append
        await store.open()
        try:
            yield store
        finally:
            await store.close()


_prefixes = itertools.count(1)


@asynccontextmanager
async def _redis(url: str, options: Options) -> AsyncIterator[RunStore]:
    store = RedisStore(
        url,
        lease=60.0,
        bounds=options.bounds,
        clock=options.clock,
        prefix=f"test{next(_prefixes)}",
    )
    store.on_cancel = options.cancelled.append
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def redis(options: Options) -> AbstractAsyncContextManager[RunStore]:
    """Open a store with a prefix of its own on a shared redis-server."""
    return _redis(shared_redis(), options)


def redis_cluster(options: Options) -> AbstractAsyncContextManager[RunStore]:
    """Open a store with a prefix of its own on a shared cluster of three nodes."""
    return _redis(shared_cluster(), options)


STORES: dict[str, Factory] = {
    "memory": memory,
    "sqlite": sqlite,
    "redis": redis,
    "redis_cluster": redis_cluster,
}


def a_run(run_id: str, key: str | None = None, thread: str | None = None) -> RunRecord:
    return RunRecord(run_id, "chain", "stream", "ann", created_at=1.0, key=key, thread=thread)


async def an_ended_run(store: RunStore, run_id: str, size: int = 1, key: str | None = None) -> None:
    await store.acquire(a_run(run_id, key))
    await store.append(run_id, 1, 1, [b"x" * size], DONE)
