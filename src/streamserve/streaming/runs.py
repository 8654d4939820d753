"""Runs: the runs of this process. Starts them, counts their readers, cancels them, ends them at shutdown."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

from streamserve.call import Call
from streamserve.errors import (
    Cancelled,
    IdempotencyConflict,
    NotFound,
    RunLost,
    ServeError,
    ShuttingDown,
    TooManyReaders,
)
from streamserve.settings import Settings
from streamserve.stores import Fenced, Outcome, RunRecord, RunStore, StoreDown, store_at
from streamserve.streaming.events import error_block
from streamserve.streaming.live import LiveRun
from streamserve.streaming.run import Events, Run, RunLimits

logger = logging.getLogger(__name__)

OnDisconnect = Literal["continue", "cancel"]

# Seconds between two looks for runs whose owner is gone: readers wait that much longer than the lease at most.
LOOK_INTERVAL = 0.5
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
        self.store.on_readers = self._readers_changed
        self.draining = False
        self._live: dict[str, LiveRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls: set[asyncio.Task[object]] = set()
        self._readers: dict[asyncio.Task[object], Callable[[], None]] = {}
        self._reading: Counter[str] = Counter()
        self._side_tasks: set[asyncio.Task[None]] = set()
        self._lost: list[RunRecord] = []

    async def start(
        self, record: RunRecord, events: Events, call: Call, *, timeout: float | None, on_disconnect: OnDisconnect
    ) -> tuple[RunRecord, bool]:
        """Stores a run and starts it, or finds the one that its key names.

        Args:
            record: not stored yet.
            events: LangServe's iterator; closed unstarted if the run exists.
            call: the request's.
            timeout: of the chain, in seconds; None: the server's.
            on_disconnect: what happens when the last reader leaves.

        Returns:
            The record, and whether it is new.

        Raises:
            IdempotencyConflict: the key names a run made from another body.
            ShuttingDown: no new runs are taken.
        """
        if self.draining:
            await events.aclose()
            raise ShuttingDown()
        try:
            stored, new = await self.store.acquire(record)
        except StoreDown:
            await events.aclose()  # before any call of a model
            raise
        if not new:
            await events.aclose()
            if stored.fingerprint != record.fingerprint:
                raise IdempotencyConflict()
            return stored, False
        run = Run(stored, self.store, events, call, self._limits(timeout))
        live = LiveRun(run, self._grace(record, on_disconnect), self._cancel_if_orphaned)
        self._live[run.run_id] = live
        task = await run.start()
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._forget(run.run_id, done))
        if record.endpoint == "runs":
            live.orphan()  # nobody reads it yet, and perhaps nobody will
        return stored, True

    def _grace(self, record: RunRecord, on_disconnect: OnDisconnect) -> float | None:
        if on_disconnect == "continue":
            return None
        # Without a key, and without knowing the id before its connection broke, a caller cannot come back.
        can_return = record.key is not None or record.endpoint == "runs"
        return self.settings.orphan_grace if can_return else 0.0

    def _limits(self, timeout: float | None) -> RunLimits:
        settings = self.settings
        return RunLimits(
            events=settings.max_run_events,
            bytes=settings.max_run_bytes,
            timeout=timeout or settings.run_timeout,
            cancel_grace=settings.cancel_grace,
            store_patience=settings.store_patience,
            store_strict=settings.store_strict,
        )

    def _forget(self, run_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        live = self._live.pop(run_id, None)
        if live is not None:
            live.watch()

    async def find(self, run_id: str, principal: str) -> RunRecord:
        """The record of a run that this principal made.

        Raises:
            NotFound: there is none, or it is somebody else's.
        """
        record = await self.store.get(run_id)
        if record is None or record.principal != principal:
            raise NotFound("There is no such run")
        return record

    @contextmanager
    def reading(self, run_id: str, drop: Callable[[], None]) -> Iterator[None]:
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
        if self._reading[run_id] >= self.settings.max_readers:
            raise TooManyReaders()
        reader = asyncio.current_task()
        assert reader is not None
        self._readers[reader] = drop
        self._reading[run_id] += 1
        self._came(run_id)
        try:
            yield
        finally:
            del self._readers[reader]
            self._left(run_id)

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
        if not self.store.immediate:
            self._beside(self.store.set_reading(run_id, reading))

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_despite_the_store(work))
        self._side_tasks.add(task)
        task.add_done_callback(self._side_tasks.discard)

    def _readers_changed(self, run_id: str) -> None:
        live = self._live.get(run_id)
        if live is not None and not self._reading[run_id]:
            live.orphan()

    def _cancel_if_orphaned(self, run: Run) -> None:
        self._beside(self._cancel_unless_read(run))

    async def _cancel_unless_read(self, run: Run) -> None:
        if self._reading[run.run_id] or await self.store.is_read_elsewhere(run.run_id):
            return  # the store tells when those leave
        run.cancel(Cancelled("The last reader left"))

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

    @contextmanager
    def calling(self, task: asyncio.Task[object]) -> Iterator[None]:
        """Keeps a non-stream call where the shutdown finds it."""
        self._calls.add(task)
        try:
            yield
        finally:
            self._calls.discard(task)

    async def reap_forever(self) -> None:
        """Ends what other processes left behind, and drops what is past its retention, now and then."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            await _despite_the_store(self._reap())

    async def _reap(self) -> None:
        self._lost += await self.store.take_over_lost()
        while self._lost:  # each is handed out once: what could not be ended is kept for the next look
            await self._end_lost(self._lost[0])
            del self._lost[0]
        await self.store.reap(time.time())

    async def _end_lost(self, record: RunRecord) -> None:
        logger.warning("run lost: its worker is gone", extra={"run_id": record.run_id, "chain": record.chain})
        seq, body = record.last_id + 1, RunLost().event(record.run_id)
        with suppress(Fenced):
            await self.store.append(record.run_id, record.attempt, seq, [error_block(seq, body)], Outcome("lost", body))

    async def drain(self) -> None:
        """Takes no new runs, lets those under way be finished and read within the drain time, then ends the rest."""
        self.draining = True
        await self._idle(self.settings.drain_time)
        self.end_all(ShuttingDown())
        await self._idle(self.settings.cancel_grace + LAST_BLOCK)
        for drop in list(self._readers.values()):
            drop()

    def end_all(self, reason: ServeError) -> None:
        """Cancels every run and call with a reason."""
        for live in list(self._live.values()):
            live.run.cancel(reason)
        for task in self._calls:
            task.cancel()

    async def _idle(self, seconds: float) -> None:
        pending = {*self._tasks, *self._calls, *self._readers}
        if pending:
            await asyncio.wait(pending, timeout=seconds)


async def _despite_the_store(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except StoreDown as error:
        logger.warning("left for later, the store is away: %s", error)
