"""Runs whose worker is gone: each goes on here, or gets its end."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from streamserve.errors import RunLost
from streamserve.stores import Fenced, Outcome, RunRecord, RunStore
from streamserve.wire.blocks import error_block

logger = logging.getLogger(__name__)


class LostRuns:
    """The runs that this process took over from others.

    Args:
        store: hands them out.
        max_attempts: a run is begun so often at most.
        go_on: goes on with a run here; False if that cannot be.
    """

    def __init__(self, store: RunStore, max_attempts: int, go_on: Callable[[RunRecord], Awaitable[bool]]) -> None:
        self._store = store
        self._max_attempts = max_attempts
        self._go_on = go_on
        self._taken: list[RunRecord] = []

    async def take_over(self) -> None:
        """Takes over what there is."""
        self._taken += await self._store.take_over_lost()

    async def settle(self) -> None:
        """Goes on with what was taken over, or ends it."""
        while self._taken:  # each is handed out once: what fails is kept for the next time
            record = self._taken[0]
            extra = {"run_id": record.run_id, "chain": record.chain}
            if record.request is not None and record.attempt <= self._max_attempts and await self._go_on(record):
                logger.warning("attempt %d of a run whose worker is gone", record.attempt, extra=extra)
            else:
                logger.warning("run lost: its worker is gone", extra=extra)
                await self._end(record)
            del self._taken[0]

    def cancel(self, run_id: str) -> None:
        """Nobody goes on with a run that somebody wants cancelled."""
        for record in self._taken:
            if record.run_id == run_id:
                record.request = None

    async def _end(self, record: RunRecord) -> None:
        seq, body = record.last_id + 1, RunLost().event(record.run_id)
        end = Outcome("lost", body)
        with suppress(Fenced):
            await self._store.append(record.run_id, record.attempt, seq, [error_block(seq, body)], end)
