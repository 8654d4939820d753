"""SqliteStore: the RunStore contract on a SQLite file. Four threads, each with a connection of its own:
one writes, one reads, one follows other processes, one keeps the file in order.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from streamserve.stores.base import Fenced, Outcome, Retained, RunRecord, Slice, Stored, StoreDown, Wake, resolve
from streamserve.stores.bounds import DEFAULT_BOUNDS, Bounds
from streamserve.stores.sqlite import retention, takeover
from streamserve.stores.sqlite.follower import Follower, News
from streamserve.stores.sqlite.identity import Identity
from streamserve.stores.sqlite.keeper import Keeper
from streamserve.stores.sqlite.posted import Append, Posted
from streamserve.stores.sqlite.reads import Reads
from streamserve.stores.sqlite.threads import DatabaseThread
from streamserve.stores.sqlite.writes import Writes
from streamserve.stores.tails import Tails

logger = logging.getLogger(__name__)

# A lease is renewed so often in its time.
RENEWALS = 4
# Seconds between two transactions, while they are crowded. Few blocks never wait; at 10,000 blocks a second twenty
# share the cost of a transaction, and wait for half of this on average.
WRITE_SPACING = 0.002
# Pause between two rounds of the keeper, in seconds.
KEEP_PAUSE = 1.0
# Tries to open the file, and the pause between them in seconds: workers that start together make it together.
OPEN_TRIES, OPEN_PAUSE = 20, 0.1


class SqliteStore:
    """Runs in a SQLite file, for the processes of one machine.

    Args:
        path: of the file; it is made, with its folder, when the store is opened.
        lease: seconds without a sign of life after which a worker's runs are lost.
        bounds: what is kept of ended runs.
        clock: seconds since the epoch.
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
        self._identity = Identity(lease, clock)
        self._tails = Tails(lambda _run_id: self._follow(), self._closed)
        # Runs of this process, with their attempts; their blocks reach the tails without the follower.
        self._own: dict[str, int] = {}
        self._ended: set[str] = set()
        # Runs that nobody writes any more.
        self._given_up: set[str] = set()
        self._dropped: set[str] = set()
        self._following = False
        # What is being put together, and for which turn.
        self._posted = Posted("")
        self._turn = -1
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """See RunStore."""
        loop = self._loop = asyncio.get_running_loop()

        def dropped(run_ids: list[str]) -> None:
            loop.call_soon_threadsafe(self._forget, run_ids)

        self._writer = DatabaseThread(
            "store writer", lambda: Writes(self._path, self._identity, self._bounds, dropped), WRITE_SPACING
        )
        self._reader = DatabaseThread("store reader", lambda: Reads(self._path))
        self._keeper = DatabaseThread("store keeper", lambda: Keeper(self._path))
        self._follower = Follower(self._path, lambda: self._identity.worker, self._take)
        try:
            await self._first_contact()
        except StoreDown:
            await self._stop_threads()
            raise
        self._tasks = [asyncio.create_task(self._renew_forever()), asyncio.create_task(self._keep_forever())]

    async def _first_contact(self) -> None:
        for tries_left in reversed(range(OPEN_TRIES)):
            try:
                await self._writer.do(Writes.renew)
            except StoreDown:
                if not tries_left:
                    raise
                await asyncio.sleep(OPEN_PAUSE)
            else:
                self._identity.well_since = 0.0
                return

    async def close(self) -> None:
        """See RunStore."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(StoreDown):
            await self._writer.do(Writes.leave)
        await self._stop_threads()

    async def _stop_threads(self) -> None:
        await asyncio.gather(self._keeper.stop(), self._reader.stop(), self._follower.stop())
        await self._writer.stop()

    async def check(self) -> None:
        """See RunStore."""
        await self._writer.do(Writes.check)

    async def acquire(self, run: RunRecord, *, alone: bool = False) -> tuple[RunRecord, bool]:
        """See RunStore."""
        stored, new = await self._writer.do(Writes.acquire, run, alone)
        if new:
            self._adopt(run)
        return stored, new

    async def ahead(self, run: RunRecord) -> list[str]:
        """See RunStore."""
        return await self._reader.do(Reads.ahead, run)

    async def restore(self, run: RunRecord) -> None:
        """See RunStore."""
        await self._writer.do(Writes.restore, run)
        self._adopt(run)

    async def append(
        self, run_id: str, attempt: int, first_seq: int, blocks: Sequence[bytes], outcome: Outcome | None = None
    ) -> int:
        """See RunStore."""
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
        """See RunStore."""
        # In this order: what is held now is true under the name from before, if under any.
        worker = self._identity.worker
        held = self._identity.held.get(run_id)
        if outcome is None and held and held.attempt == attempt and held.last_id + 1 == first_seq:
            if self._turn != self._writer.turn:
                self._open_page(worker)
            else:
                self._writer.sharing += 1
            self._posted.add_append(Append(run_id, attempt, first_seq, blocks, stored, held))
        else:
            answer = partial(self._answer, run_id, attempt, first_seq, blocks, outcome, stored)
            self._writer.post(answer, Writes.append, run_id, attempt, first_seq, blocks, outcome)

    def _open_page(self, worker: str) -> None:
        """Begins the page of this turn of the event loop."""
        self._posted, self._turn = Posted(worker), self._writer.turn
        self._writer.post(partial(self._answer_all, self._posted), Writes.store, self._posted)

    def _answer_all(self, posted: Posted, result: Sequence[int | Exception] | Exception | None) -> None:
        feed = self._tails.feed
        for index, (run_id, attempt, first_seq, blocks, stored, held) in enumerate(posted.appends):
            try:
                if result is None:  # all is stored as it was posted
                    held.last_id += len(blocks)
                    held.size += sum(map(len, blocks))
                    feed(run_id, first_seq, blocks)
                    stored(held.last_id + 1)
                else:
                    one = result if isinstance(result, Exception) else result[index]
                    self._answer(run_id, attempt, first_seq, blocks, None, stored, one)
            except Exception:  # a fault of one listener must not leave the others without their answers
                logger.exception("an answer was not taken")

    def _answer(
        self,
        run_id: str,
        attempt: int,
        first_seq: int,
        blocks: Sequence[bytes],
        outcome: Outcome | None,
        stored: Stored,
        result: int | Exception,
    ) -> None:
        if isinstance(result, Exception):
            if isinstance(result, Fenced) and self._own.get(run_id) == attempt:
                self._disown(run_id)
        else:
            self._feed(run_id, first_seq, blocks, ended=outcome is not None)
            if outcome is not None:
                self._disown(run_id)
        stored(result)

    async def get(self, run_id: str) -> RunRecord | None:
        """See RunStore."""
        return await self._reader.do(Reads.get, run_id)

    async def read(self, run_id: str, after: int, limit: int) -> Slice:
        """See RunStore."""
        known = self._tails.read(run_id, after, limit) if run_id not in self._dropped else None
        if known is not None:
            return known
        found, whole = await self._reader.do(Reads.read, run_id, after, limit)
        if whole and found.blocks:
            self._feed(run_id, after + 1, found.blocks, ended=found.at_end)
        return found

    def show(self, run_id: str, first_seq: int, blocks: Sequence[bytes]) -> None:
        """See RunStore."""
        self._tails.feed(run_id, first_seq, blocks)

    def subscribe(self, run_id: str, wake: Wake) -> Wake:
        """See RunStore."""
        return self._tails.subscribe(run_id, wake)

    async def set_reading(self, run_id: str, reading: bool) -> None:
        """See RunStore."""
        await self._writer.do(Writes.set_reading, run_id, reading)

    async def is_read_elsewhere(self, run_id: str) -> bool:
        """See RunStore."""
        now = self._identity.clock()
        return await self._reader.do(Reads.is_read_elsewhere, run_id, self._identity.worker, now)

    async def request_cancel(self, run_id: str) -> None:
        """See RunStore."""
        if await self._writer.do(Writes.request_cancel, run_id):
            self.on_cancel(run_id)

    async def take_over_lost(self) -> list[RunRecord]:
        """See RunStore."""
        given_up = list(self._given_up)
        taken = await self._writer.do(takeover.take_over_lost, given_up)
        self._given_up.difference_update(given_up)
        for run in taken.runs:
            self._adopt(run)
        for run_id in taken.left_by_readers:
            self.on_readers(run_id)
        return taken.runs

    def give_up(self, run_id: str) -> None:
        """See RunStore."""
        self._given_up.add(run_id)

    async def reap(self, now: float) -> None:
        """See RunStore."""
        more = True
        while more:
            more, self.retained = await self._writer.do(retention.reap, now)

    async def purge(self, run_id: str) -> None:
        """See RunStore."""
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

    def _take(self, news: News) -> None:
        for run_id, piece in news.pieces:
            self._feed(run_id, piece.first_seq, piece.blocks, ended=piece.at_end)
        for kind, run_id in news.signals:
            if kind == "cancel":
                self.on_cancel(run_id)
            else:
                self.on_readers(run_id)

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(self._identity.lease / RENEWALS)
            await _despite_failure(self._writer.do(Writes.renew))

    async def _keep_forever(self) -> None:
        while True:
            await asyncio.sleep(KEEP_PAUSE)
            await _despite_failure(self._keep())

    async def _keep(self) -> None:
        await self._keeper.do(Keeper.checkpoint)
        while moved := await self._keeper.do(Keeper.page):
            await self._writer.do(retention.move, moved)
        worker, now = self._identity.worker, self._identity.clock()
        for run in await self._keeper.do(Keeper.seal_some, worker, now):
            await self._writer.do(retention.seal, run.number, run.pieces)
        if await self._keeper.do(Keeper.has_free_pages):
            await self._writer.do(retention.vacuum)


async def _despite_failure(work: asyncio.Future[None] | Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except StoreDown as error:
        logger.warning("the store is away: %s", error)
