"""Runs whose owner is dead: this process recovers or ends each of them."""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from streamserve.errors import RunLost
from streamserve.runs.terminal import terminal
from streamserve.stores import Fenced, RunRecord, RunStore, StoreDown

logger = logging.getLogger(__name__)


class LostRuns:
    """The runs that this process took over from dead owners; `recover` returns False if a run cannot go on here."""

    def __init__(self, store: RunStore, max_attempts: int, recover: Callable[[RunRecord], Awaitable[bool]]) -> None:
        self._store = store
        self._max_attempts = max_attempts
        self._recover = recover
        self._pending: list[RunRecord] = []

    async def take_over(self) -> None:
        """Take over the lost runs in the store."""
        self._pending += await self._store.take_over_lost()

    async def recover_or_end(self) -> None:
        """Recover each run that was taken over, or end it."""
        for record in list(self._pending):  # the store hands out each run once: one that fails waits for the next poll
            try:
                await self._recover_or_end(record)
            except StoreDown:
                raise
            except Exception:
                logger.exception("a lost run is not ended", extra=_about(record))
            else:
                self._pending.remove(record)

    async def _recover_or_end(self, record: RunRecord) -> None:
        if record.request is not None and record.attempt <= self._max_attempts and await self._recovered(record):
            logger.warning("attempt %d of a run whose owner is dead", record.attempt, extra=_about(record))
        else:
            logger.warning("run lost: its owner is dead", extra=_about(record))
            await self._end(record)

    async def _recovered(self, record: RunRecord) -> bool:
        try:
            return await self._recover(record)
        except StoreDown:
            raise
        except Exception:  # the next poll would fail, too
            logger.exception("a lost run cannot be recovered", extra=_about(record))
            return False

    def cancel(self, run_id: str) -> None:
        """Keep a cancelled run from being recovered."""
        for record in self._pending:
            if record.run_id == run_id:
                record.request = None

    async def _end(self, record: RunRecord) -> None:
        seq = record.last_id + 1
        block, outcome = terminal(seq, record.run_id, RunLost())
        with suppress(Fenced):
            await self._store.append(record.run_id, record.attempt, seq, [block], outcome)


def _about(record: RunRecord) -> dict[str, str]:
    return {"run_id": record.run_id, "chain": record.chain}
