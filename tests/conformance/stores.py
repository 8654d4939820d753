"""The stores that the conformance suite is run on: one line each."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from streamserve.stores import MemoryStore, RunStore
from streamserve.stores.bounds import Bounds
from streamserve.stores.redis import RedisStore
from streamserve.stores.sqlite import SqliteStore
from tests.stores.servers import shared_cluster, shared_redis


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        """Seconds since the epoch."""
        return self.now


@dataclass
class Options:
    """What every store is made with.

    Args:
        bounds: what is kept of ended runs.
        clock: the time.
        cancelled: the ids of the runs whose owner was told to cancel.
    """

    bounds: Bounds
    clock: Clock = field(default_factory=Clock)
    cancelled: list[str] = field(default_factory=list)


Factory = Callable[[Options], AbstractAsyncContextManager[RunStore]]


@asynccontextmanager
async def memory(options: Options) -> AsyncIterator[RunStore]:
    """In this process."""
    store = MemoryStore(
        bounds=options.bounds,
        clock=options.clock,
    )
    store.on_cancel = options.cancelled.append
    yield store


@asynccontextmanager
async def sqlite(options: Options) -> AsyncIterator[RunStore]:
    """A file of its own."""
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
    """A prefix of its own on a redis-server that all share."""
    return _redis(shared_redis(), options)


def redis_cluster(options: Options) -> AbstractAsyncContextManager[RunStore]:
    """A prefix of its own on a cluster of three nodes that all share."""
    return _redis(shared_cluster(), options)


STORES: dict[str, Factory] = {
    "memory": memory,
    "sqlite": sqlite,
    "redis": redis,
    "redis_cluster": redis_cluster,
}
