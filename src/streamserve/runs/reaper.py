"""The reaper: sees to what other processes left behind, and notices that the store is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from streamserve.runs.lost import LostRuns
from streamserve.stores import RunStore, StoreDown

logger = logging.getLogger(__name__)

# Seconds between two looks for runs whose owner is gone: readers wait that much longer than the lease at most.
LOOK_INTERVAL = 0.5


class Reaper:
    """Looks into the store now and then.

    Args:
        store: of the runs.
        lost: goes on with what other processes left behind, or ends it.
        patience: seconds that a run waits for a store that is away.
        is_leaving: whether this process takes nothing over: it goes away itself.
    """

    def __init__(self, store: RunStore, lost: LostRuns, patience: float, is_leaving: Callable[[], bool]) -> None:
        self._store = store
        self._lost = lost
        self._patience = patience
        self._is_leaving = is_leaving
        self._away_since: float | None = None

    @property
    def away(self) -> bool:
        """Whether the store was away at the last look."""
        return self._away_since is not None

    async def run(self) -> None:
        """Ends what other processes left behind, and drops what is past its retention, until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            try:
                await self._look()
            except StoreDown as error:
                self._away_since = self._away_since or time.monotonic()
                logger.warning("left for later, the store is away: %s", error)
            else:
                self._away_since = None

    async def is_without_store(self) -> bool:
        """Whether the store has been away for longer than a run waits for it, and is still."""
        if self._away_since is None or time.monotonic() - self._away_since <= self._patience:
            return False
        try:
            await self._store.check()
        except StoreDown:
            return True
        return False

    async def _look(self) -> None:
        if not self._is_leaving():  # it leaves them to those that stay
            await self._lost.take_over()
        await self._lost.settle()
        await self._store.reap(time.time())
