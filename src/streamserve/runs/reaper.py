"""The reaper: polls the store for runs of dead owners and expired runs, and notices an outage of the store."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from streamserve.runs.lost import LostRuns
from streamserve.stores import RunStore, StoreDown

logger = logging.getLogger(__name__)

# Seconds between two polls for lost runs: at most that much longer than the lease do readers wait.
POLL_INTERVAL = 0.5


class Reaper:
    """A periodic poll of the store.

    Args:
        patience: seconds that a run waits for an unreachable store.
        is_draining: function that returns True while this process shuts down and takes over no runs.
    """

    def __init__(self, store: RunStore, lost: LostRuns, patience: float, is_draining: Callable[[], bool]) -> None:
        self._store = store
        self._lost = lost
        self._patience = patience
        self._is_draining = is_draining
        self._down_since: float | None = None

    @property
    def store_down(self) -> bool:
        """True if the store was unreachable at the last poll."""
        return self._down_since is not None

    async def run(self) -> None:
        """Recover or end lost runs, and drop runs past their retention, until cancelled."""
        while True:
            await asyncio.sleep(POLL_INTERVAL)
            try:
                for work in (self._take_over, self._lost.recover_or_end, self._reap):
                    await _logging_faults(work)
            except StoreDown as error:
                self._down_since = self._down_since or time.monotonic()
                logger.warning("the store is unreachable, lost and expired runs wait: %s", error)
            else:
                self._down_since = None

    async def is_without_store(self) -> bool:
        """Return True if the store is unreachable, and has been for longer than a run waits for it."""
        if self._down_since is None or time.monotonic() - self._down_since <= self._patience:
            return False
        try:
            await self._store.check()
        except StoreDown:
            return True
        return False

    async def _take_over(self) -> None:
        if not self._is_draining():  # a process that shuts down leaves lost runs to the others
            await self._lost.take_over()

    async def _reap(self) -> None:
        await self._store.reap(time.time())


async def _logging_faults(work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except StoreDown:
        raise
    except Exception:  # without polls, this worker would never drop a run again
        logger.exception("a part of a poll of the store failed")
