"""SqliteStore: the RunStore contract on a SQLite file. Four OS threads have a connection each: one writes, one reads,
one follows other processes, one compacts the file.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from streamserve.stores.base import Fenced, Outcome, Retained, RunRecord, Slice, Stored, StoreDown, Wake, resolve
from streamserve.stores.bounds import DEFAULT_BOUNDS, Bounds
from streamserve.stores.sqlite import retention, takeover, writes
from streamserve.stores.sqlite.compactor import Compactor
from streamserve.stores.sqlite.follower import Follower, Piece
from streamserve.stores.sqlite.reads import ReadSession
from streamserve.stores.sqlite.session import Worker, WriteSession
from streamserve.stores.sqlite.threads import DatabaseThread
from streamserve.stores.tails import Tails

logger = logging.getLogger(__name__)

# Heartbeats in the time of a lease.
RENEWALS = 4
# Seconds between two rounds of the compactor.
COMPACT_PAUSE = 1.0
# Tries to open the file, and seconds between them: workers that start together make it together.
OPEN_TRIES, OPEN_PAUSE = 20, 0.1

Append = tuple[str, int, int, Sequence[bytes], Outcome | None]


class SqliteStore:
    """Runs in a SQLite file, for the processes of one machine.

    Args:
        path: path of the file; `open` makes it and its folder.
        bounds: bounds of the ended runs.
        lease: seconds without a heartbeat after which a worker's runs are lost.
        clock: returns the seconds since the epoch.
    """

    immediate = False

    def __init__(
        self,
        path: str | Path,
        *,
        bounds: Bounds = DEFAULT_BOUNDS,
        lease: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.on_cancel: Callable[[str], None] = lambda _run_id: None
        self.on_readers: Callable[[str], None] = lambda _run_id: None
        self.retained = Retained()
        self._path = Path(path).absolute()
        self._bounds = bounds
        self._worker = Worker(lease, clock)
        self._tails = Tails(lambda _run_id: self._follow(), self._closed)
        # The attempts of this process's runs; their blocks reach the tails without the follower.
        self._own: dict[str, int] = {}
        # Of the runs with a tail here: those whose tail has the end, and those whose blocks were dropped.
        self._ended: set[str] = set()
        self._dropped: set[str] = set()
        # Runs that nobody writes any more.
        self._given_up: set[str] = set()
        self._following = False
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        loop = self._loop = asyncio.get_running_loop()

        def dropped(run_ids: list[str]) -> None:
            loop.call_soon_threadsafe(self._forget, run_ids)

        self._writer = DatabaseThread(
            "store writer", lambda: WriteSession(self._path, self._worker, self._bounds, dropped)
        )
        self._reader = DatabaseThread("store reader", lambda: ReadSession(self._path))
        self._compactor = DatabaseThread("store compactor", lambda: Compactor(self._path))
        self._follower = Follower(self._path, lambda: self._worker.name, self._take)
        try:
            await self._first_contact()
        except StoreDown:
            await self._stop_threads()
            raise
        beside = (
            _repeat(self._worker.lease / RENEWALS, self._renew),
            _repeat(COMPACT_PAUSE, self._compact),
        )
        self._tasks = [asyncio.create_task(work) for work in beside]

    async def _first_contact(self) -> None:
        for tries_left in reversed(range(OPEN_TRIES)):
            try:
                await self._writer.do(WriteSession.renew)
            except StoreDown:
                if not tries_left:
                    raise
                await asyncio.sleep(OPEN_PAUSE)
            else:
                self._worker.failed_at = -math.inf
                return

    async def _renew(self) -> None:
        own = set(self._own)
        # Another worker has taken these over: readers here follow it, although nothing was appended here since.
        for run_id in own - await self._writer.do(WriteSession.renew):
            self._disown(run_id)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(StoreDown):
            await self._writer.do(takeover.leave)
        await self._stop_threads()

    async def _stop_threads(self) -> None:
        await asyncio.gather(self._compactor.stop(), self._reader.stop(), self._follower.stop())
        await self._writer.stop()

    async def check(self) -> None:
        await self._writer.do(writes.check)

    async def acquire(self, run: RunRecord, *, alone: bool = False) -> tuple[RunRecord, bool]:
        storing = self._writer.do(writes.acquire, run, alone)
        self._writer.hand_over()  # a caller waits for the first token
        try:
            stored, new = await asyncio.shield(storing)
        except (StoreDown, asyncio.CancelledError):
            self.give_up(run.run_id)  # the run may be stored, but it never starts
            raise
        if new:
            self._adopt(run)
        return stored, new

    async def named(self, key: str) -> RunRecord | None:
        return await self._reader.do(ReadSession.named, key)

    async def ahead(self, run: RunRecord) -> list[str]:
        return await self._reader.do(ReadSession.ahead, run)

    async def restore(self, run: RunRecord) -> None:
        await self._writer.do(writes.restore, run)
        self._adopt(run)

    async def append(
        self, run_id: str, attempt: int, first_seq: int, blocks: Sequence[bytes], outcome: Outcome | None = None
    ) -> int:
        answered: asyncio.Future[int] = self._loop.create_future()
        self.post(run_id, attempt, first_seq, blocks, outcome, partial(resolve, answered))
        return await answered

    def post(
        self,
        run_id: str,
        attempt: int,
        first_seq: int,
        blocks: Sequence[bytes],
        outcome: Outcome | None,
        stored: Stored,
    ) -> None:
        append = (run_id, attempt, first_seq, blocks, outcome)
        self._writer.post(partial(self._answer, append, stored), writes.append, *append)
        if first_seq == 1:
            self._writer.hand_over()  # a caller waits for the first token

    def _answer(self, append: Append, stored: Stored, result: int | Exception) -> None:
        run_id, attempt, first_seq, blocks, outcome = append
        if isinstance(result, Exception):
            if isinstance(result, Fenced) and self._own.get(run_id) == attempt:
                self._disown(run_id)
        else:
            self._feed(run_id, first_seq, blocks, ended=outcome is not None)
            if outcome is not None:
                self._disown(run_id)
        stored(result)

    async def get(self, run_id: str) -> RunRecord | None:
        return await self._reader.do(ReadSession.get, run_id)

    async def read(self, run_id: str, after: int, limit: int) -> Slice:
        newest = self._tails.read(run_id, after, limit) if run_id not in self._dropped else None
        if newest is not None:
            return newest
        found, whole = await self._reader.do(ReadSession.read, run_id, after, limit)
        if whole and found.blocks:
            self._feed(run_id, after + 1, found.blocks, ended=found.at_end)
        return found

    def show(self, run_id: str, first_seq: int, blocks: Sequence[bytes]) -> None:
        self._tails.feed(run_id, first_seq, blocks)

    def subscribe(self, run_id: str, wake: Wake) -> Wake:
        return self._tails.subscribe(run_id, wake)

    async def set_reading(self, run_id: str, reading: bool) -> None:
        await self._writer.do(writes.set_reading, run_id, reading)

    async def is_read_elsewhere(self, run_id: str) -> bool:
        worker = self._worker
        return await self._reader.do(ReadSession.is_read_elsewhere, run_id, worker.name, worker.clock())

    async def request_cancel(self, run_id: str) -> None:
        if await self._writer.do(writes.request_cancel, run_id):
            self.on_cancel(run_id)

    async def take_over_lost(self) -> list[RunRecord]:
        given_up = list(self._given_up)
        runs, unread = await self._writer.do(takeover.take_over_lost, given_up)
        self._given_up.difference_update(given_up)
        for run in runs:
            self._adopt(run)
        for run_id in unread:
            self.on_readers(run_id)
        return runs

    def give_up(self, run_id: str) -> None:
        self._given_up.add(run_id)

    async def reap(self, now: float) -> None:
        more = True
        while more:
            more, self.retained = await self._writer.do(retention.reap, now)

    async def purge(self, run_id: str) -> None:
        await self._writer.do(retention.purge, run_id)

    def _adopt(self, run: RunRecord) -> None:
        self._own[run.run_id] = run.attempt
        self._follow()

    def _disown(self, run_id: str) -> None:
        self._own.pop(run_id, None)
        self._follow()

    def _feed(self, run_id: str, first_seq: int, blocks: Sequence[bytes], *, ended: bool) -> None:
        if run_id in self._tails:
            if ended:
                self._ended.add(run_id)
            self._tails.feed(run_id, first_seq, blocks, ended=ended)

    def _closed(self, run_id: str) -> None:
        self._ended.discard(run_id)
        self._dropped.discard(run_id)
        self._follow()

    def _forget(self, run_ids: list[str]) -> None:
        self._dropped.update(run_id for run_id in run_ids if run_id in self._tails)

    def _follow(self) -> None:
        # Once per turn of the loop, however many readers come and go in it.
        if not self._following:
            self._following = True
            self._loop.call_soon(self._follow_now)

    def _follow_now(self) -> None:
        self._following = False
        elsewhere = frozenset(run_id for run_id in self._tails if run_id not in self._own) - self._ended
        self._follower.follow(elsewhere, listening=bool(self._own))

    def _take(self, pieces: Sequence[Piece], signals: Sequence[tuple[str, str]]) -> None:
        for piece in pieces:
            self._feed(piece.run_id, piece.first_seq, piece.blocks, ended=piece.at_end)
        for kind, run_id in signals:
            if kind == "cancel":
                self.on_cancel(run_id)
            elif kind == "readers":
                self.on_readers(run_id)
            else:
                self._forget([run_id])
                self._tails.wake(run_id)

    async def _compact(self) -> None:
        if await self._compactor.do(Compactor.compact):
            await self._writer.do(retention.vacuum)


async def _repeat(pause: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(pause)
        try:
            await work()
        except StoreDown as error:
            logger.warning("the store is away: %s", error)
        except Exception:  # without its lease this worker would lose every run
            logger.exception("the work beside the store failed")
