"""The readers in this process, and the cancellation of runs whose last reader left."""

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

# Minimum seconds before an unreachable store is asked again whether a run has readers elsewhere, or told of those here.
OUTAGE_PAUSE = 1.0


class Readers:
    """The readers in this process, both of its own runs and of other owners' runs."""

    def __init__(self, store: RunStore, live: Mapping[str, LiveRun], limit: int) -> None:
        self._store = store
        self._live = live
        self._limit = limit
        self._drops: dict[asyncio.Task[object], Callable[[], None]] = {}
        self._counts: Counter[str] = Counter()
        self._closing = False
        self._background: set[asyncio.Task[None]] = set()
        store.on_readers = self._on_remote_readers

    def __len__(self) -> int:
        """Return the number of readers."""
        return len(self._drops)

    @property
    def tasks(self) -> set[asyncio.Task[object]]:
        """The tasks of the readers."""
        return set(self._drops)

    def drop_all(self) -> None:
        """Drop every reader, because this process shuts down."""
        self._closing = True
        for drop in list(self._drops.values()):
            drop()

    @contextmanager
    def reading(self, run_id: str, drop: Callable[[], None]) -> Iterator[None]:
        """Count the current task as a reader of a run inside the `with` block; `drop` ends the reader.

        Raises:
            TooManyReaders: The run has the maximum number of readers.
        """
        if self._counts[run_id] >= self._limit:
            raise TooManyReaders()
        reader = asyncio.current_task()
        assert reader is not None
        self._drops[reader] = drop
        self._add(run_id)
        try:
            yield
        finally:
            del self._drops[reader]
            self._remove(run_id)

    def owner_changed(self, run_id: str) -> None:
        """Store anew whether a run is read here, after this process began to own it or gave it up."""
        if self._counts[run_id]:
            self._notify_owner(run_id)

    def adopt_run(self, run_id: str) -> None:
        """Follow the readers of a run that this process took over."""
        if self._counts[run_id]:
            self._notify_owner(run_id)
        elif live := self._live.get(run_id):  # None: the run has ended already
            live.start_orphan_timer()

    def cancel_if_orphaned(self, run: Run) -> None:
        """Cancel a run that has no reader in any process."""
        self._start(self._cancel_unless_read(run))

    async def _cancel_unless_read(self, run: Run) -> None:
        try:
            elsewhere = await self._store.is_read_elsewhere(run.run_id)
        except StoreDown as error:
            logger.warning("the store is unreachable, a run without readers goes on: %s", error)
            if live := self._orphan(run):
                live.start_orphan_timer(at_least=OUTAGE_PAUSE)
            return
        # If there are readers elsewhere, the store notifies this process when they leave.
        if not elsewhere and self._orphan(run):
            run.cancel(Cancelled("The last reader left"))

    def _orphan(self, run: Run) -> LiveRun | None:
        """Return the live run, or None if a reader came while the store was asked, and perhaps left again."""
        live = self._live.get(run.run_id)
        return None if live is None or live.is_waiting or self._counts[run.run_id] else live

    def _on_remote_readers(self, run_id: str) -> None:
        live = self._live.get(run_id)
        if live is not None and not self._counts[run_id]:
            live.start_orphan_timer()

    def _add(self, run_id: str) -> None:
        self._counts[run_id] += 1
        if live := self._live.get(run_id):
            live.stop_orphan_timer()
        elif self._counts[run_id] == 1:
            self._notify_owner(run_id)

    def _remove(self, run_id: str) -> None:
        self._counts[run_id] -= 1
        if self._counts[run_id] == 0:
            del self._counts[run_id]
            if live := self._live.get(run_id):
                live.start_orphan_timer()
            else:
                self._notify_owner(run_id)

    def _notify_owner(self, run_id: str) -> None:
        if not self._store.immediate:
            self._start(self._store_reading(run_id))

    async def _store_reading(self, run_id: str) -> None:
        while True:
            try:
                # Readers in the owner's own process are not in the store.
                await self._store.set_reading(run_id, run_id in self._counts and run_id not in self._live)
                return
            except StoreDown as error:
                logger.warning("the store is unreachable, a change of readers is not stored yet: %s", error)
            await asyncio.sleep(OUTAGE_PAUSE)
            if self._closing:
                return

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
