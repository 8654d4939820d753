"""Writes a run's blocks to its store, in order, exactly once, and survives a store that is away for a while.

Group batching without timers: while one append is under way, the blocks that come pile up for the next.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from streamserve.stores import Gap, Outcome, RunRecord, RunStore, StoreDown, UnknownRun

logger = logging.getLogger(__name__)

# Blocks in one append at most: a store serves nobody else while it works on one.
MAX_BATCH = 512
# Unstored blocks at which the chain has to wait for the store.
HIGH_WATER = 4096
# Pause between tries while the store is away, in seconds.
RETRY_PAUSE = 0.1


class Writer:
    """The writer of one run.

    Args:
        record: of the run; its `last_id` follows what is stored.
        store: where to.
        patience: seconds that the store may be away before the run is given up.
        strict: show a block only once it is stored; the terminal block always is.
        on_failure: called once with what ended the writing, which may be noticed between two blocks.
    """

    def __init__(
        self,
        record: RunRecord,
        store: RunStore,
        patience: float,
        on_failure: Callable[[Exception], None],
        *,
        strict: bool = True,
    ) -> None:
        self._record = record
        self._store = store
        self._patience = patience
        self._on_failure = on_failure
        self._strict = strict
        # All blocks from the first: a store that lost the run gets it again.
        self._blocks: list[bytes] = []
        self._outcome: Outcome | None = None
        self._error: Exception | None = None
        self._drainer: asyncio.Task[None] | None = None
        self._more: asyncio.Future[None] | None = None
        self._progress = asyncio.Event()

    @property
    def next_seq(self) -> int:
        """Number of the next block."""
        return (self._record.last_id if self._store.immediate else len(self._blocks)) + 1

    async def put(self, block: bytes, outcome: Outcome | None = None) -> None:
        """Takes a block; waits only when too much is unstored or, with `outcome`, until all is stored.

        Raises:
            Fenced: the run has another owner, or has ended.
            StoreDown: the store was away for too long.
        """
        if self._store.immediate:
            await self._append(self.next_seq, [block], outcome)
            return
        self._blocks.append(block)
        self._outcome = outcome
        if not self._strict and outcome is None:
            self._store.show(self._record.run_id, len(self._blocks), [block])
        self._wake_drainer()
        if outcome is not None and self._drainer is not None:
            await asyncio.wait({self._drainer})
        while self._error is None and self._backlog > HIGH_WATER:
            self._progress.clear()
            await self._progress.wait()
        if self._error is not None:
            raise self._error

    @property
    def _backlog(self) -> int:
        return len(self._blocks) - self._record.last_id

    def _wake_drainer(self) -> None:
        # One task for the run, not one per block.
        if self._drainer is None:
            self._drainer = asyncio.create_task(self._drain())
        elif self._more is not None and not self._more.done():
            self._more.set_result(None)

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._backlog > 0 or self._outcome is None:
                if self._backlog > 0:
                    await self._store_next()
                    self._progress.set()
                else:
                    self._more = loop.create_future()
                    await self._more
        except Exception as error:
            self._error = error
            self._progress.set()
            self._on_failure(error)

    def close(self) -> None:
        """Stops the task of a run that was given up."""
        if self._drainer is not None:
            self._drainer.cancel()

    async def _store_next(self) -> None:
        start = self._record.last_id
        batch = self._blocks[start : start + MAX_BATCH]
        outcome = self._outcome if start + len(batch) == len(self._blocks) else None
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._patience
        while True:
            try:
                return await self._append(start + 1, batch, outcome)
            except StoreDown:
                if loop.time() > give_up:
                    raise
                await asyncio.sleep(RETRY_PAUSE)
            except Gap as gap:
                self._record.last_id = gap.next_seq - 1
                return None
            except UnknownRun:
                await self._restore()
                return None

    async def _restore(self) -> None:
        logger.warning("the store lost run %s: storing it again", self._record.run_id)
        self._record.last_id = 0
        await self._store.restore(self._record)

    async def _append(self, first_seq: int, batch: list[bytes], outcome: Outcome | None) -> None:
        record = self._record
        next_seq = await self._store.append(record.run_id, record.attempt, first_seq, batch, outcome)
        record.last_id = next_seq - 1
