"""A SQLite file for several stores in one process, each as the store of a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from streamserve.stores.sqlite import SqliteStore
from tests.conformance.stores import Clock


@asynccontextmanager
async def opened(store: SqliteStore) -> AsyncIterator[SqliteStore]:
    """Open a store and close it at the end."""
    await store.open()
    try:
        yield store
    finally:
        await store.close()


class Place:
    """A file, and stores on it with one clock.

    Args:
        path: path of the file.
        lease: lease of each store in seconds.
    """

    def __init__(self, path: Path, lease: float) -> None:
        self.path = path
        self.lease = lease
        self.clock = Clock()

    @asynccontextmanager
    async def store(self, **options: Any) -> AsyncIterator[SqliteStore]:
        """Open the store of one worker."""
        async with opened(SqliteStore(self.path, **{"lease": self.lease, "clock": self.clock, **options})) as store:
            yield store
