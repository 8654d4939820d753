"""The writer of a run's blocks: in order, exactly once, and through short outages of the store.

It batches without timers: blocks that arrive during one append go into the next.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import cast

from streamserve.stores import Gap, ImmediateStore, Outcome, RunRecord, RunStore, StoreDown, UnknownRun

logger = logging.getLogger(__name__)

# Maximum blocks per append: a store serves no other run during an append.
MAX_BATCH = 512
# Number of unstored blocks above which the chain waits for the store.
HIGH_WATER = 4096
# Seconds between two tries while the store is unreachable.
RETRY_PAUSE = 0.1


class Writer:
    """The writer of one run.

    Args:
        record: the record of the run; the writer keeps its `last_id` at the last stored block.
        patience: seconds without a reachable store before the writing fails.
        on_failure: function that is called once with the exception that ended the writing.
        strict: True if readers get a block only after it is stored (default True); the terminal block always waits.
        stored: the blocks of earlier attempts. Default: none.
    """

    __slots__ = (
        "_append_now",
        "_blocks",
        "_busy",
        "_deadline",
        "_error",
        "_loop",
        "_on_failure",
        "_outcome",
        "_patience",
        "_record",
        "_restoring",
        "_store",
        "_strict",
        "_tried_at",
        "_waiting",
        "on_stored",
    )

    def __init__(
        self,
        record: RunRecord,
        store: RunStore,
        patience: float,
        on_failure: Callable[[Exception], None],
        *,
        strict: bool = True,
        stored: Sequence[bytes] = (),
    ) -> None:
        self._record = record
        self._store = store
        self._append_now = cast(ImmediateStore, store).append_now if store.immediate else None
        self._patience = patience
        self._on_failure = on_failure
        self._strict = strict
        # All blocks from the first: after a data loss of the store, the whole run is stored again.
        self._blocks: list[bytes] = list(stored)
        self._outcome: Outcome | None = None
        self._error: Exception | None = None
        # True during an append, a pause or a restore; only one of them at a time.
        self._busy = False
        # Time of the pending append's first try; 0.0: no append is pending.
        self._tried_at = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self._restoring: asyncio.Task[None] | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self.on_stored: Callable[[float], None] | None = None

    @property
    def next_seq(self) -> int:
        """The sequence number of the next block."""
        return (len(self._blocks) if self._append_now is None else self._record.last_id) + 1

    def write(self, block: bytes) -> bool:
        """Write a block; return True if `drain` must be awaited before the next one.

        Raises:
            Fenced: The run has another owner, or has ended.
        """
        record = self._record
        if self._append_now is not None:
            number = record.last_id + 1
            record.last_id = self._append_now(record.run_id, record.attempt, number, (block,), None) - 1
            return False
        self._blocks.append(block)
        if not self._strict:
            self._store.show(record.run_id, len(self._blocks), [block])
        if not self._busy:
            self._post_next()
        return self._error is not None or len(self._blocks) - record.last_id > HIGH_WATER

    async def drain(self) -> None:
        """Wait until the number of unstored blocks is below the high-water mark.

        Raises:
            Fenced: The run has another owner, or has ended.
            StoreDown: The store was unreachable for longer than `patience`.
        """
        await self._wait_for_store(HIGH_WATER)

    async def finish(self, block: bytes, outcome: Outcome) -> None:
        """Write the terminal block, and wait until all blocks are stored.

        Raises:
            Fenced: The run has another owner, or has ended.
            StoreDown: The store was unreachable for longer than `patience`.
        """
        record = self._record
        if self._append_now is not None:
            number = record.last_id + 1
            record.last_id = self._append_now(record.run_id, record.attempt, number, (block,), outcome) - 1
            return
        self._blocks.append(block)
        self._outcome = outcome
        if not self._busy:
            self._post_next()
        await self._wait_for_store(0)

    async def _wait_for_store(self, unstored: int) -> None:
        while self._error is None and len(self._blocks) - self._record.last_id > unstored:
            self._waiting = self._loop.create_future()
            await self._waiting
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Stop the writing."""
        if self._error is None:
            self._error = StoreDown("closed")
        if self._restoring is not None:
            self._restoring.cancel()
        if self._deadline is not None:
            self._deadline.cancel()

    def _post_next(self) -> None:
        if self._error is not None:
            return
        record, start = self._record, self._record.last_id
        batch = self._blocks[start : start + MAX_BATCH]
        outcome = self._outcome if start + len(batch) == len(self._blocks) else None
        self._busy = True
        self._tried_at = self._tried_at or self._loop.time()
        self._store.post(record.run_id, record.attempt, start + 1, batch, outcome, self._on_result)

    def _on_result(self, result: int | Exception) -> None:
        if self._error is not None:
            return
        if isinstance(result, int):
            self._advance(result)
        elif isinstance(result, StoreDown):
            self._retry_later(result)
        elif isinstance(result, UnknownRun):
            self._restoring = self._loop.create_task(self._restore())
        elif isinstance(result, Gap):
            self._advance(result.next_seq)
        else:
            self._fail(result)

    def _advance(self, next_seq: int) -> None:
        self._record.last_id = next_seq - 1
        if self.on_stored is not None:
            self.on_stored(self._loop.time() - self._tried_at)
        self._tried_at = 0.0
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._busy = False
        if next_seq <= len(self._blocks):
            self._post_next()
        self._wake()

    def _retry_later(self, error: StoreDown) -> None:
        # A timer of its own: one try may take seconds.
        if self._deadline is None:
            self._deadline = self._loop.call_at(self._tried_at + self._patience, self._fail, error)
        self._loop.call_later(RETRY_PAUSE, self._post_next)

    async def _restore(self) -> None:
        logger.warning("the store lost run %s: storing it again", self._record.run_id)
        try:
            await self._store.restore(self._record)
        except StoreDown as error:
            self._retry_later(error)
        except Exception as error:
            self._fail(error)
        else:
            self._advance(1)

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
            self._wake()
            self._on_failure(error)

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
