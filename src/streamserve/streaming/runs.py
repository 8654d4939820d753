"""Runs: the runs of this process. Starts them, counts their readers, cancels them, ends them at shutdown."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from streamserve.call import Call
from streamserve.errors import Cancelled, IdempotencyConflict, NotFound, ServeError, ShuttingDown, TooManyReaders
from streamserve.settings import Settings
from streamserve.stores import MemoryStore, RunRecord, RunStore
from streamserve.streaming.run import Events, Run, RunLimits

OnDisconnect = Literal["continue", "cancel"]

# How often ended runs are looked through for those past their retention, in seconds.
REAP_INTERVAL = 5.0
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
        self.store = store or MemoryStore(
            retention=settings.retention,
            tombstone=settings.tombstone,
            max_runs=settings.max_retained_runs,
            max_bytes=settings.max_retained_bytes,
            on_cancel=self._cancel_here,
        )
        self.draining = False
        self._live: dict[str, _Live] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls: set[asyncio.Task[object]] = set()
        self._readers: dict[asyncio.Task[object], Callable[[], None]] = {}
        self._reading: Counter[str] = Counter()

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
        stored, new = await self.store.acquire(record)
        if not new:
            await events.aclose()
            if stored.fingerprint != record.fingerprint:
                raise IdempotencyConflict()
            return stored, False
        run = Run(stored, self.store, events, call, self._limits(timeout))
        live = _Live(run, self._grace(record, on_disconnect))
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
        """
        if self._reading[run_id] >= self.settings.max_readers:
            raise TooManyReaders()
        reader = asyncio.current_task()
        assert reader is not None
        self._readers[reader] = drop
        self._reading[run_id] += 1
        if live := self._live.get(run_id):
            live.watch()
        try:
            yield
        finally:
            del self._readers[reader]
            self._left(run_id)

    def _left(self, run_id: str) -> None:
        self._reading[run_id] -= 1
        if self._reading[run_id] == 0:
            del self._reading[run_id]
            if live := self._live.get(run_id):
                live.orphan()

    async def cancel(self, record: RunRecord, wait: float) -> RunRecord:
        """Cancels a run.

        Args:
            record: of the run.
            wait: seconds to wait for its end.

        Returns:
            The record, ended or not.
        """
        if not record.ended:
            await self.store.request_cancel(record.run_id)
            live = self._live.get(record.run_id)
            if live is not None and wait > 0:
                await _within(wait, live.run.ended.wait())
        return await self.store.get(record.run_id) or record

    async def wait(self, record: RunRecord, seconds: float) -> RunRecord:
        """The record once the run has ended, or after so many seconds."""
        live = self._live.get(record.run_id)
        if live is not None and seconds > 0:
            await _within(seconds, live.run.ended.wait())
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
        """Drops what is past its retention, now and then."""
        while True:
            await asyncio.sleep(REAP_INTERVAL)
            await self.store.reap(time.time())

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


class _Live:
    """A run under way, and what happens when it has no readers."""

    def __init__(self, run: Run, grace: float | None) -> None:
        self.run = run
        self._grace = grace
        self._orphaned: asyncio.TimerHandle | None = None

    def orphan(self) -> None:
        if self._grace is not None:
            loop = asyncio.get_running_loop()
            self._orphaned = loop.call_later(self._grace, self.run.cancel, Cancelled("The last reader left"))

    def watch(self) -> None:
        if self._orphaned is not None:
            self._orphaned.cancel()
            self._orphaned = None


async def _within(seconds: float, waiting: object) -> None:
    try:
        await asyncio.wait_for(waiting, seconds)  # type: ignore[arg-type]
    except TimeoutError:
        return
