"""Runs: the runs of this process. Starts them, cancels them, ends them at shutdown."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Literal

from streamserve.call import Call
from streamserve.errors import Cancelled, IdempotencyConflict, NotFound, ServeError, ShuttingDown, ThreadBusy
from streamserve.runs.attempt import Recoverer
from streamserve.runs.limits import RunLimits
from streamserve.runs.live import LiveRun
from streamserve.runs.lost import LostRuns
from streamserve.runs.observer import Load, Observer, Watch
from streamserve.runs.readers import Readers
from streamserve.runs.reaper import Reaper
from streamserve.runs.run import Events, Run
from streamserve.settings import Settings
from streamserve.stores import RunRecord, RunStore, StoreDown, store_at
from streamserve.stores import ThreadBusy as Busy

logger = logging.getLogger(__name__)

OnDisconnect = Literal["continue", "cancel"]

# How long readers get to take their terminal block at shutdown, in seconds.
LAST_BLOCK = 1.0


class Runs:
    """The runs of this process and the store they are kept in.

    Args:
        settings: the bounds.
        store: default: in memory.
    """

    def __init__(self, settings: Settings, store: RunStore | None = None) -> None:
        self.settings = settings
        self.store = store or store_at(settings)
        self.store.on_cancel = self._cancel_here
        self.recovery: Recoverer | None = None
        self.observer = Observer()
        self.draining = False
        self._live: dict[str, LiveRun] = {}
        self._readers = Readers(self.store, self._live, settings.max_readers)
        self._storing: set[asyncio.Future[None]] = set()
        self._calls: set[asyncio.Task[object]] = set()
        self._cancellers: dict[str, Callable[[ServeError], None]] = {}
        self._lost = LostRuns(self.store, settings.max_attempts, self._recover)
        self.reaper = Reaper(self.store, self._lost, settings.store_patience, lambda: self.draining)

    async def start(
        self,
        record: RunRecord,
        events: Events,
        call: Call,
        *,
        timeout: float | None,
        on_disconnect: OnDisconnect,
        alone: bool = False,
    ) -> tuple[RunRecord, bool]:
        """Stores a run and starts it, or finds the one that its key names.

        Args:
            record: not stored yet.
            events: LangServe's iterator; closed unstarted if the run exists.
            call: the request's.
            timeout: of the chain, in seconds; None: the server's.
            on_disconnect: what happens when the last reader leaves.
            alone: only if no live run has its thread.

        Returns:
            The record, and whether it is new.

        Raises:
            IdempotencyConflict: the key names a run made from another body.
            ThreadBusy: a live run has its thread.
            ShuttingDown: no new runs are taken.
        """
        with self._being_stored():
            try:
                stored, new = await self.claim(record, alone=alone)
            except (StoreDown, ServeError):
                await events.aclose()  # before any call of a model
                raise
            if not new:
                await events.aclose()
                if stored.fingerprint != record.fingerprint:
                    raise IdempotencyConflict()
                return stored, False
            run = Run(stored, self.store, events, call, RunLimits.of(self.settings, timeout))
            live = await self._begin(run, self._grace(record, on_disconnect))
            if call.slot:
                call.slot.keep()
            if record.endpoint == "runs":
                live.orphan()  # nobody reads it yet, and perhaps nobody will
            return stored, True

    @contextmanager
    def _being_stored(self) -> Iterator[None]:
        """While a run is being stored, it is not among the live ones; a shutdown waits for it all the same."""
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._storing.add(stored)
        try:
            yield
        finally:
            self._storing.discard(stored)
            stored.set_result(None)

    async def claim(self, record: RunRecord, *, alone: bool) -> tuple[RunRecord, bool]:
        """Stores a run, or finds the one that its key names.

        Args:
            record: not stored yet.
            alone: only if no live run has its thread.

        Raises:
            ThreadBusy: a live run has its thread.
            ShuttingDown: no new runs are taken.
        """
        if self.draining:
            raise ShuttingDown()
        try:
            return await self.store.acquire(record, alone=alone)
        except Busy as busy:
            raise ThreadBusy(busy.holder) from busy

    @property
    def busy(self) -> int:
        """How many runs and calls are under way here."""
        return len(self._live) + len(self._calls)

    @contextmanager
    def cancellable(self, run_id: str, cancel: Callable[[ServeError], None]) -> Iterator[None]:
        """Lets a run of this process that nobody reads be cancelled by its id."""
        self._cancellers[run_id] = cancel
        try:
            yield
        finally:
            del self._cancellers[run_id]

    async def _begin(self, run: Run, grace: float | None) -> LiveRun:
        watched = self.observer.begin(run.record, run.call)
        run.observe(watched.block, self.observer.stored)
        live = self._live[run.run_id] = LiveRun(run, grace, self._readers.cancel_if_orphaned)
        await run.start()
        run.over.add_done_callback(lambda _over: self._ended(live, watched))
        return live

    def _grace(self, record: RunRecord, on_disconnect: OnDisconnect) -> float | None:
        if on_disconnect == "continue":
            return None
        # Without a key, and without knowing the id before its connection broke, a caller cannot come back.
        can_return = record.key is not None or record.request is not None or record.endpoint == "runs"
        return self.settings.orphan_grace if can_return else 0.0

    def _ended(self, live: LiveRun, watched: Watch) -> None:
        run_id = live.run.run_id
        live.watch()
        if live.run.call.slot:
            live.run.call.slot.release(kept=True)
        if self._live.get(run_id) is live:  # not if this process has recovered it meanwhile
            del self._live[run_id]
            if live.run.given_up:
                self._readers.moved_away(run_id)
        watched.ended(live.run.outcome)

    async def find(self, run_id: str, principal: str) -> RunRecord:
        """The record of a run that this principal made.

        Raises:
            NotFound: there is none, or it is somebody else's.
        """
        record = await self.store.get(run_id)
        if record is None or record.principal != principal:
            raise NotFound("There is no such run")
        return record

    def reading(self, run_id: str, drop: Callable[[], None]) -> AbstractContextManager[None]:
        """Counts the current task as a reader of a run while it reads.

        Args:
            run_id: of the run, under way or not.
            drop: ends the reader.

        Raises:
            TooManyReaders: the run has as many as it may.
            ShuttingDown: another process has the run's blocks as well, and does not shut down.
        """
        if self.draining and not self.store.immediate and run_id not in self._live:
            raise ShuttingDown()
        return self._readers.reading(run_id, drop)

    async def cancel(self, record: RunRecord, wait: float) -> RunRecord:
        """Cancels a run, whichever process it runs in.

        Args:
            record: of the run.
            wait: seconds to wait for its end.

        Returns:
            The record, ended or not.
        """
        if record.ended:
            return record
        self.observer.cancelling(record.chain)
        await self.store.request_cancel(record.run_id)
        return await self.wait(record, wait)

    async def wait(self, record: RunRecord, seconds: float) -> RunRecord:
        """The record once the run has ended, or after so many seconds."""
        woken = asyncio.Event()
        unsubscribe = self.store.subscribe(record.run_id, woken.set)
        try:
            async with asyncio.timeout(seconds):
                while not record.ended:
                    woken.clear()
                    record = await self.store.get(record.run_id) or record
                    if not record.ended:
                        await woken.wait()
        except TimeoutError:
            pass
        finally:
            unsubscribe()
        return await self.store.get(record.run_id) or record

    def _cancel_here(self, run_id: str) -> None:
        live = self._live.get(run_id)
        if live is not None:
            live.run.cancel(Cancelled())
        if cancel := self._cancellers.get(run_id):
            cancel(Cancelled())
        self._lost.cancel(run_id)

    def load(self) -> Load:
        """What is open in this process."""
        return Load(len(self._live), len(self._calls), len(self._readers), self.reaper.away)

    @contextmanager
    def calling(self, task: asyncio.Task[object]) -> Iterator[None]:
        """Keeps a non-stream call where the shutdown finds it."""
        self._calls.add(task)
        try:
            yield
        finally:
            self._calls.discard(task)

    async def _recover(self, record: RunRecord) -> bool:
        if self.recovery is None or self.draining:
            return False
        with self._being_stored():
            found = await self.recovery.attempt(record, self.store, partial(RunLimits.of, self.settings))
            if found is None:
                return False
            grace = None if found.on_disconnect == "continue" else self.settings.orphan_grace
            await asyncio.create_task(self._begin(found.run, grace), context=found.context)
        self._readers.moved_here(record.run_id)
        return True

    async def drain(self) -> None:
        """Takes no new runs, lets those under way be finished and read within the drain time, then ends the rest."""
        self.draining = True
        await self._idle(self.settings.drain_time)
        self.end_all(ShuttingDown())
        await self._idle(self.settings.cancel_grace + LAST_BLOCK)
        self._readers.drop_all()

    def end_all(self, reason: ServeError) -> None:
        """Cancels every run and call with a reason."""
        for live in list(self._live.values()):
            live.run.cancel(reason)
        for task in self._calls:
            task.cancel()

    async def _idle(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while pending := self._under_way():
            left = deadline - time.monotonic()
            if left <= 0:
                return
            await asyncio.wait(pending, timeout=left)

    def _under_way(self) -> set[asyncio.Future[Any]]:
        found: set[asyncio.Future[Any]] = {*self._storing, *self._calls, *self._readers.tasks}
        return found.union(live.run.over for live in self._live.values())
