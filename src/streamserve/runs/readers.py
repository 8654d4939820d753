"""Readers: who reads the runs in this process, and what follows when a run has none."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from streamserve.errors import Cancelled, TooManyReaders
from streamserve.runs.live import LiveRun
from streamserve.runs.run import Run
from streamserve.stores import RunStore, StoreDown

logger = logging.getLogger(__name__)


class Readers:
    """The readers in this process, of its own runs and of others'.

    Args:
        store: what tells other processes that their runs are read here.
        live: the runs of this process by their ids.
        limit: readers that a run may have here.
    """

    def __init__(self, store: RunStore, live: Mapping[str, LiveRun], limit: int) -> None:
        self._store = store
        self._live = live
        self._limit = limit
        self._drops: dict[asyncio.Task[object], Callable[[], None]] = {}
        self._reading: Counter[str] = Counter()
        self._side_tasks: set[asyncio.Task[None]] = set()
        store.on_readers = self._changed_elsewhere

    def __len__(self) -> int:
        """How many there are."""
        return len(self._drops)

    @property
    def tasks(self) -> set[asyncio.Task[object]]:
        """What reads, each until it has read."""
        return set(self._drops)

    def drop_all(self) -> None:
        """Ends every reader."""
        for drop in list(self._drops.values()):
            drop()

    @contextmanager
    def reading(self, run_id: str, drop: Callable[[], None]) -> Iterator[None]:
        """Counts the current task as a reader of a run while it reads.

        Args:
            run_id: of the run, under way or not.
            drop: ends the reader.

        Raises:
            TooManyReaders: the run has as many as it may.
        """
        if self._reading[run_id] >= self._limit:
            raise TooManyReaders()
        reader = asyncio.current_task()
        assert reader is not None
        self._drops[reader] = drop
        self._reading[run_id] += 1
        self._came(run_id)
        try:
            yield
        finally:
            del self._drops[reader]
            self._left(run_id)

    def moved_away(self, run_id: str) -> None:
        """A run of this process is another's from now on, which is told if it has readers here."""
        if self._reading[run_id]:
            self._tell_owner(run_id, reading=True)

    def moved_here(self, run_id: str) -> None:
        """Another's run is this process's from now on."""
        if self._reading[run_id]:
            self._tell_owner(run_id, reading=False)  # that is now this process
        elif live := self._live.get(run_id):  # else it has ended at once
            live.orphan()

    def cancel_if_orphaned(self, run: Run) -> None:
        """Cancels a run if nobody reads it, in any process."""
        self._beside(self._cancel_unless_read(run))

    async def _cancel_unless_read(self, run: Run) -> None:
        if self._reading[run.run_id] or await self._store.is_read_elsewhere(run.run_id):
            return  # the store tells when those leave
        run.cancel(Cancelled("The last reader left"))

    def _changed_elsewhere(self, run_id: str) -> None:
        live = self._live.get(run_id)
        if live is not None and not self._reading[run_id]:
            live.orphan()

    def _came(self, run_id: str) -> None:
        if live := self._live.get(run_id):
            live.watch()
        elif self._reading[run_id] == 1:
            self._tell_owner(run_id, reading=True)

    def _left(self, run_id: str) -> None:
        self._reading[run_id] -= 1
        if self._reading[run_id] == 0:
            del self._reading[run_id]
            if live := self._live.get(run_id):
                live.orphan()
            else:
                self._tell_owner(run_id, reading=False)

    def _tell_owner(self, run_id: str, *, reading: bool) -> None:
        if not self._store.immediate:
            self._beside(self._store.set_reading(run_id, reading))

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_despite_the_store(work))
        self._side_tasks.add(task)
        task.add_done_callback(self._side_tasks.discard)


async def _despite_the_store(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except StoreDown as error:
        logger.warning("left for later, the store is away: %s", error)
