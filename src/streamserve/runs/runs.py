"""The runs of this process: their start, their cancellation and their end at shutdown."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

from streamserve.call import Call
from streamserve.errors import Cancelled, IdempotencyConflict, NotFound, ServeError, ShuttingDown, ThreadBusy
from streamserve.runs.attempt import Recoverer
from streamserve.runs.limits import RunLimits
from streamserve.runs.live import LiveRun
from streamserve.runs.lost import LostRuns
from streamserve.runs.observer import Load, Observer, RunHooks
from streamserve.runs.readers import Readers
from streamserve.runs.reaper import Reaper
from streamserve.runs.run import Events, Run
from streamserve.settings import Settings
from streamserve.stores import RunRecord, RunStore, StoreDown, ThreadLocked, store_at

logger = logging.getLogger(__name__)

OnDisconnect = Literal["continue", "cancel"]

# Seconds for readers to receive the terminal block at shutdown.
LAST_BLOCK = 1.0


class Runs:
    """The runs of this process and their store."""

    def __init__(self, settings: Settings, store: RunStore | None = None) -> None:
        self.settings = settings
        self.store = store or store_at(settings)
        self.store.on_cancel = self._on_cancel
        self.recovery: Recoverer | None = None
        self.observer = Observer()
        self.draining = False
        self._drain_end = self._grace_end = math.inf
        self._live: dict[str, LiveRun] = {}
        self._readers = Readers(self.store, self._live, settings.max_readers)
        self._storing: set[asyncio.Future[None]] = set()
        self._calls: dict[asyncio.Task[object], int] = {}
        self._further = 0
        self._waits: set[asyncio.Event] = set()
        self._closing = False
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
        """Store and start a run, or find the run with the same idempotency key.

        Args:
            record: the record, not stored yet.
            events: LangServe's iterator; closed without a start if the run exists.
            timeout: the chain's timeout in seconds; None: the server's timeout.
            alone: True to refuse the run while another live run has its thread. Default: False.

        Returns:
            The record, and True if the run is new.

        Raises:
            IdempotencyConflict: The key belongs to a run with another request body.
            ThreadBusy: Another live run has the thread.
            ShuttingDown: The server takes no new runs.
        """
        with self._being_stored():
            try:
                stored, new = await self.claim(record, alone=alone)
            except (StoreDown, ServeError):
                await events.aclose()  # not started, so no model was called
                raise
            if not new:
                await events.aclose()
                if stored.fingerprint != record.fingerprint:
                    raise IdempotencyConflict()
                return stored, False
            run = Run(stored, self.store, events, call, RunLimits.of(self.settings, timeout))
            live = self._start(run, self._grace(record, on_disconnect))
            if call.slot:
                call.slot.keep()
            if record.endpoint == "runs":
                live.start_orphan_timer()  # it has no reader yet, and may never have one
            return stored, True

    @contextmanager
    def _being_stored(self) -> Iterator[None]:
        # A run that is being stored is not live yet; a shutdown waits for it too.
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._storing.add(stored)
        try:
            yield
        finally:
            self._storing.discard(stored)
            stored.set_result(None)

    async def claim(self, record: RunRecord, *, alone: bool) -> tuple[RunRecord, bool]:
        """Store a run, or find the run with the same idempotency key; `alone` as for `start`.

        Returns:
            The record, and True if the run is new.

        Raises:
            ThreadBusy: Another live run has the thread.
            ShuttingDown: The server takes no new runs.
        """
        if self.draining:
            raise ShuttingDown()
        try:
            return await self.store.acquire(record, alone=alone)
        except ThreadLocked as locked:
            raise ThreadBusy(locked.holder) from locked

    @property
    def busy(self) -> int:
        """The number of runs and calls in this process, with each item of a batch that may run."""
        return len(self._live) + sum(self._calls.values()) + self._further

    @contextmanager
    def further(self, places: int) -> Iterator[None]:
        """Count so many runs more inside the `with` block: the items of a batch that is one run."""
        self._further += places
        try:
            yield
        finally:
            self._further -= places

    @contextmanager
    def cancellable(self, run_id: str, cancel: Callable[[ServeError], None]) -> Iterator[None]:
        """Let a run without blocks, such as a call of /invoke, be cancelled by its id inside the `with` block."""
        self._cancellers[run_id] = cancel
        try:
            yield
        finally:
            del self._cancellers[run_id]

    def _start(self, run: Run, grace: float | None) -> LiveRun:
        hooks = self.observer.begin(run.record, run.call)
        run.observe(hooks.block, self.observer.stored)
        live = self._live[run.run_id] = LiveRun(run, grace, self._readers.cancel_if_orphaned)
        self._readers.owner_changed(run.run_id)  # a request with the same key may have read it as soon as it was stored
        run.start()
        run.ended.add_done_callback(lambda _ended: self._on_ended(live, hooks))
        return live

    def _grace(self, record: RunRecord, on_disconnect: OnDisconnect) -> float | None:
        if on_disconnect == "continue":
            return None
        # A caller that has neither an idempotency key nor the run's id cannot resume.
        can_resume = record.key is not None or record.request is not None or record.endpoint == "runs"
        return self.settings.orphan_grace if can_resume else 0.0

    def _on_ended(self, live: LiveRun, hooks: RunHooks) -> None:
        run_id = live.run.run_id
        live.stop_orphan_timer()
        if live.run.call.slot:
            live.run.call.slot.release(kept=True)
        if self._live.get(run_id) is live:  # another object if this process has recovered the run meanwhile
            del self._live[run_id]
            if live.run.given_up:
                self._readers.owner_changed(run_id)
        hooks.ended(live.run.outcome)

    async def find(self, run_id: str, principal: str) -> RunRecord:
        """Return the record of a run of this principal.

        Raises:
            NotFound: The run does not exist, or belongs to another principal.
        """
        record = await self.store.get(run_id)
        if record is None or record.principal != principal:
            raise NotFound("There is no such run")
        return record

    def reading(self, run_id: str, drop: Callable[[], None]) -> AbstractContextManager[None]:
        """Count the current task as a reader of a run inside the `with` block.

        Raises:
            TooManyReaders: The run has the maximum number of readers.
            ShuttingDown: This process shuts down, and another process can serve the run's blocks.
        """
        if self.draining and not self.store.immediate and run_id not in self._live:
            raise ShuttingDown()
        return self._readers.reading(run_id, drop)

    async def cancel(self, record: RunRecord) -> None:
        """Cancel a run in any process, unless it has ended."""
        if not record.ended:
            self.observer.cancelling(record.chain)
            await self.store.request_cancel(record.run_id)

    async def wait(self, record: RunRecord, seconds: float | None) -> RunRecord:
        """Return the record once the run has ended, after this number of seconds, or when this process has drained."""
        woken = asyncio.Event()
        unsubscribe = self.store.subscribe(record.run_id, woken.set)
        self._waits.add(woken)
        try:
            async with asyncio.timeout(seconds):
                while not (record.ended or self._closing):
                    woken.clear()
                    record = await self.store.get(record.run_id) or record
                    if not (record.ended or self._closing):
                        await woken.wait()
        except TimeoutError:
            pass
        finally:
            self._waits.discard(woken)
            unsubscribe()
        return await self.store.get(record.run_id) or record

    def _on_cancel(self, run_id: str) -> None:
        live = self._live.get(run_id)
        if live is not None:
            live.run.cancel(Cancelled())
        if cancel := self._cancellers.get(run_id):
            cancel(Cancelled())
        self._lost.cancel(run_id)

    def load(self) -> Load:
        """Return the load of this process."""
        return Load(len(self._live), len(self._calls), len(self._readers), self.reaper.store_down)

    @contextmanager
    def calling(self, task: asyncio.Task[object], places: int = 1) -> Iterator[None]:
        """Count a call of /invoke or /batch inside the `with` block, as so many runs; a shutdown waits for it."""
        self._calls[task] = places
        try:
            yield
        finally:
            del self._calls[task]

    async def _recover(self, record: RunRecord) -> bool:
        if self.recovery is None or self.draining:
            return False
        with self._being_stored():
            found = await self.recovery.attempt(record, self.store, self.settings)
            if found is None:
                return False
            grace = None if found.on_disconnect == "continue" else self.settings.orphan_grace
            found.context.run(self._start, found.run, grace)
        self._readers.adopt_run(record.run_id)
        return True

    def reopen(self) -> None:
        """Take new runs again: an application may be started a second time, as tests do."""
        self.draining = self._closing = False
        self._drain_end = self._grace_end = math.inf

    async def drain(self) -> None:
        """Refuse new runs, wait for the live ones and their readers for the drain time, then end the rest.

        The drain time begins with the first call: after SIGTERM, the application's end calls this again.
        """
        self.draining = True
        self._drain_end = min(self._drain_end, time.monotonic() + self.settings.drain_time)
        await self._wait_until_idle(self._drain_end)
        self.end_all(ShuttingDown())
        self._grace_end = min(self._grace_end, time.monotonic() + self.settings.cancel_grace + LAST_BLOCK)
        await self._wait_until_idle(self._grace_end)
        self._readers.drop_all()
        self._closing = True  # a run of another process may go on for long
        for woken in self._waits:
            woken.set()

    def end_all(self, reason: ServeError) -> None:
        """Cancel all runs and calls."""
        for live in list(self._live.values()):
            live.run.cancel(reason)
        for task in self._calls:
            task.cancel()

    async def _wait_until_idle(self, deadline: float) -> None:
        while pending := self._pending():
            left = deadline - time.monotonic()
            if left <= 0:
                return
            await asyncio.wait(pending, timeout=left)

    def _pending(self) -> set[asyncio.Future[Any]]:
        found: set[asyncio.Future[Any]] = {*self._storing, *self._calls, *self._readers.tasks}
        return found.union(live.run.ended for live in self._live.values())
