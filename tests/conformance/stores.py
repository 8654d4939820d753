"""The stores that the conformance suite is run on: one line each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from streamserve.stores import MemoryStore, RunStore


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
        retention: seconds that an ended run's blocks are kept.
        tombstone: seconds that its record is kept after that.
        max_runs: ended runs kept at most.
        max_bytes: of the blocks of ended runs together.
        clock: the time.
        cancelled: the ids of the runs whose owner was told to cancel.
    """

    retention: float = 100.0
    tombstone: float = 1000.0
    max_runs: int = 1000
    max_bytes: int = 2**20
    clock: Clock = field(default_factory=Clock)
    cancelled: list[str] = field(default_factory=list)


Factory = Callable[[Options], AbstractAsyncContextManager[RunStore]]


@asynccontextmanager
async def memory(options: Options) -> AsyncIterator[RunStore]:
    """In this process."""
    yield MemoryStore(
        retention=options.retention,
        tombstone=options.tombstone,
        max_runs=options.max_runs,
        max_bytes=options.max_bytes,
        on_cancel=options.cancelled.append,
        clock=options.clock,
    )


STORES: dict[str, Factory] = {
    "memory": memory,
}
