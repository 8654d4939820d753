"""The RunStore contract on Redis, single or cluster."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from streamserve.stores.base import Outcome, Retained, RunRecord, Slice, Stored, StoreDown, ThreadBusy, Wake, resolve
from streamserve.stores.bounds import DEFAULT_BOUNDS, Bounds
from streamserve.stores.redis import scripts
from streamserve.stores.redis.appends import FENCED, OK, Answer, Append, Appends, refusal
from streamserve.stores.redis.client import CONNECTIONS, Client, cancel
from streamserve.stores.redis.hearing import Hearing
from streamserve.stores.redis.keys import Keys
from streamserve.stores.redis.records import record_of
from streamserve.stores.redis.retention import Pieces, Retention, blocks_ttl, record_ttl
from streamserve.stores.redis.workers import Worker

logger = logging.getLogger(__name__)

BEATS_PER_LEASE = 4
# Seconds that Redis may take for an answer, unless the lease is shorter than twice that.
ANSWER_LIMIT = 2.0
# Past any block's number: a tail that begins there answers no reader.
NOWHERE = 2**62
# An idempotency key that nobody took back is dropped so long after its run's record, in milliseconds.
KEY_SLACK = 86_400_000


class RedisStore:
    """Keeps runs in Redis.

    Args:
        url: redis://HOST:PORT/DB, rediss://, redis+cluster:// or rediss+cluster://.
        lease: seconds without a sign of life after which a worker has lost its runs.
        bounds: what is kept of ended runs.
        clock: seconds since the epoch.
        prefix: of all keys and channels.
        connections: at most; who comes while all are busy waits.

    Raises:
        ModuleNotFoundError: redis-py is not installed.
    """

    immediate = False

    def __init__(
        self,
        url: str,
        *,
        lease: float = 10.0,
        bounds: Bounds = DEFAULT_BOUNDS,
        clock: Callable[[], float] = time.time,
        prefix: str = "streamserve",
        connections: int = CONNECTIONS,
    ) -> None:
        self.on_cancel: Callable[[str], None] = lambda _run_id: None
        self.on_readers: Callable[[str], None] = lambda _run_id: None
        self._lease = lease
        self._clock = clock
        self._bounds = bounds
        self._keys = Keys(prefix)
        self._client = Client(url, timeout=min(ANSWER_LIMIT, lease / 2), connections=connections)
        self._appends = Appends(self._client, self._keys)
        self._pieces = Pieces()
        self._worker = Worker(self._client, self._keys, lease, time.monotonic, self._fenced, self._emptied)
        self._retention = Retention(self._client, self._keys, self._bounds, clock, self._purged)
        self._hearing = Hearing(
            self._client,
            self._keys,
            self._worker,
            lambda run_id: self.on_cancel(run_id),
            lambda run_id: self.on_readers(run_id),
            self._purged,
        )
        self._tails, self._sweep = self._hearing.tails, self._hearing.sweep
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def retained(self) -> Retained:
        """See RunStore."""
        return self._retention.retained

    async def open(self) -> None:
        """See RunStore; a Redis that is away is waited for, /readyz tells."""
        self._client.open()
        self._hearing.open()
        for work in (self._beat_forever(), self._sweep.forever(), self._retention.seal_forever()):
            self._beside(work)
        try:
            await self._worker.beat()
        except StoreDown as error:
            logger.error("the store is away: %s", error)

    async def close(self) -> None:
        """See RunStore."""
        await cancel(self._tasks)
        await self._hearing.close()
        await self._appends.close()
        try:
            await self._worker.leave()
        except StoreDown as error:
            logger.warning("the lease of this worker ends by itself: %s", error)
        await self._client.close()

    async def check(self) -> None:
        """See RunStore; writes, since a full Redis can still be read."""
        await self._worker.beat()

    async def acquire(self, run: RunRecord, *, alone: bool = False) -> tuple[RunRecord, bool]:
        """See RunStore."""
        if run.key and (found := await self._named(run.key)):
            return found, False
        try:
            if not await self._worker.own(run):
                await self._client.do("HSET", self._keys.run(run.run_id), "worker", self._worker.id)
            winner = await self._enter(run, alone) or await self._claim(run)
        except (StoreDown, asyncio.CancelledError):
            # Perhaps stored, certainly not started.
            self._worker.unborn[run.run_id] = run
            raise
        if winner is not None:
            return winner, False
        self._worker.owned[run.run_id] = run
        return run, True

    async def _enter(self, run: RunRecord, alone: bool) -> RunRecord | None:
        # As with keys: the row is there before the thread names it.
        holder = await self._worker.claims.enter(run, alone)
        if holder is None:
            return None
        await self._worker.discard(run.run_id)
        same = await self._get(holder) if run.key else None
        if same is not None and same.key == run.key:
            return same
        raise ThreadBusy(holder)

    async def ahead(self, run: RunRecord) -> list[str]:
        """See RunStore."""
        return await self._worker.claims.ahead(run)

    async def _named(self, key: str) -> RunRecord | None:
        name = await self._client.do("GET", self._keys.key(key))
        record = await self._get(name.decode()) if name else None
        return None if record is None or record.purged else record

    async def _claim(self, run: RunRecord) -> RunRecord | None:
        # The row is there before the key names it: whoever finds a key finds its run, whenever a claimer dies.
        # A key whose run is gone (purged, or lost with a shard) is replaced by comparing it first.
        stale = ""
        while run.key:
            ttl = record_ttl(self._bounds) + KEY_SLACK
            named = await self._client.run(scripts.CLAIM, [self._keys.key(run.key)], run.run_id, stale, ttl)
            if named.decode() == run.run_id:
                return None
            winner = await self._get(named.decode())
            if winner is not None and not winner.purged:
                await self._worker.discard(run.run_id)
                return winner
            stale = named.decode()
        return None

    async def append(
        self, run_id: str, attempt: int, first_seq: int, blocks: Sequence[bytes], outcome: Outcome | None = None
    ) -> int:
        """See RunStore."""
        answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
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

        def answer(result: Answer | StoreDown) -> None:
            if not isinstance(result, Answer):
                stored(result)
            elif result.state == OK:
                whole = first_seq + len(blocks) - 1 == result.last_id
                self._tails.feed(run_id, first_seq, blocks, ended=outcome is not None and whole)
                if outcome is not None:
                    self._beside(self._end(run_id, result, stored))
                    return
                if result.cancelled:
                    self.on_cancel(run_id)
                stored(result.last_id + 1)
            else:
                if result.state == FENCED:
                    self._disown(run_id)
                stored(refusal(run_id, result))

        ending = self._retention.ending(outcome) if outcome is not None else ()
        self._appends.post(Append(run_id, attempt, first_seq, blocks, ending, answer))

    async def _end(self, run_id: str, answer: Answer, stored: Stored) -> None:
        try:
            await self._retention.ended(run_id, answer.size, self._clock() + self._bounds.retention)
            if (run := self._worker.owned.get(run_id)) is not None and run.request is not None:
                await self._worker.drop_request(run_id)
        except StoreDown as error:
            stored(error)
            return
        self._disown(run_id)
        stored(answer.last_id + 1)

    async def restore(self, run: RunRecord) -> None:
        """See RunStore."""
        await self._worker.own(replace(run, last_id=0))
        self._worker.owned[run.run_id] = run
        await self._worker.claims.enter(run, alone=False)
        if run.key:
            ttl = record_ttl(self._bounds) + KEY_SLACK
            await self._client.run(scripts.CLAIM, [self._keys.key(run.key)], run.run_id, "", ttl)

    async def get(self, run_id: str) -> RunRecord | None:
        """See RunStore."""
        record = await self._get(run_id)
        if record is None:
            await self._worker.beat()  # which notices a Redis that came up empty
            if self._worker.amnesic or run_id in self._worker.owned:
                raise StoreDown("Redis came up empty: the runs are being stored again")
        return record

    async def _get(self, run_id: str) -> RunRecord | None:
        record = record_of(await self._client.run(scripts.RECORD, [self._keys.run(run_id)]))
        if record is not None and record.expires_at is not None:
            # The reaper may have died with the others.
            record.purged = record.purged or record.expires_at * 1000 + blocks_ttl(self._bounds) < self._clock() * 1000
        return record

    async def read(self, run_id: str, after: int, limit: int) -> Slice:
        """See RunStore."""
        near = self._tails.read(run_id, after, limit) or self._pieces.read(run_id, after, limit)
        if near is not None:
            return Slice(*near)
        keys = self._keys.run(run_id), self._keys.blocks(run_id), self._keys.pieces(run_id)
        last, *rest = await self._client.run(scripts.READ, keys, after, limit)
        if last < 0:
            return await self._missing(run_id, known=last == -2)
        ended, kind, *found = rest
        if kind == b"piece":
            self._pieces.put(run_id, last, *found)
            return Slice(*(self._pieces.read(run_id, after, limit) or ((), False)))
        blocks: list[bytes] = found[0] if found else []
        reached = after + len(blocks) >= last
        self._sweep.saw(run_id, live=not ended and run_id not in self._worker.owned)
        if reached and after <= last:
            self._tails.feed(run_id, after + 1, blocks, ended=bool(ended))
        return Slice(blocks, bool(ended) and reached)

    async def _missing(self, run_id: str, *, known: bool) -> Slice:
        if not known:
            await self._worker.beat()  # which notices a Redis that came up empty
            if self._sweep.is_live(run_id) or run_id in self._worker.owned or self._worker.amnesic:
                raise StoreDown("Redis came up empty: the run is being stored again")
        return Slice((), True)

    def show(self, run_id: str, first_seq: int, blocks: Sequence[bytes]) -> None:
        """See RunStore."""
        self._tails.feed(run_id, first_seq, blocks)

    def subscribe(self, run_id: str, wake: Wake) -> Wake:
        """See RunStore."""
        return self._tails.subscribe(run_id, wake)

    async def set_reading(self, run_id: str, reading: bool) -> None:
        """See RunStore."""
        await self._worker.set_reading(run_id, reading)

    async def is_read_elsewhere(self, run_id: str) -> bool:
        """See RunStore."""
        return await self._worker.is_read_elsewhere(run_id)

    async def request_cancel(self, run_id: str) -> None:
        """See RunStore."""
        await self._worker.drop_request(run_id)
        control = self._keys.control("")
        owner = await self._client.run(scripts.CANCEL, [self._keys.run(run_id)], self._worker.id, control, run_id)
        if owner.decode() == self._worker.id:
            self.on_cancel(run_id)

    async def take_over_lost(self) -> list[RunRecord]:
        """See RunStore."""
        return await self._worker.take_over_lost()

    def give_up(self, run_id: str) -> None:
        """See RunStore."""
        self._worker.give_up(run_id)

    async def reap(self, now: float) -> None:
        """See RunStore."""
        await self._retention.reap(now)

    async def purge(self, run_id: str) -> None:
        """See RunStore."""
        await self._retention.purge(run_id)

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _beat_forever(self) -> None:
        while True:
            await asyncio.sleep(self._lease / BEATS_PER_LEASE)
            try:
                await self._worker.beat()
            except StoreDown as error:
                logger.warning("the lease is not renewed: %s", error)
                continue
            except Exception:  # whatever it is, a heart that stops would lose every run of this process
                logger.exception("the lease is not renewed")
                continue
            self._hearing.connect_anew_after(2 * self._lease)

    def _disown(self, run_id: str) -> None:
        self._worker.disown(run_id)
        self._hearing.disowned(run_id)

    def _fenced(self, run_id: str) -> None:
        self.on_cancel(run_id)

    def _emptied(self) -> None:
        self._hearing.look(self._tails)

    def _purged(self, run_id: str) -> None:
        self._pieces.drop(run_id)
        self._tails.feed(run_id, NOWHERE, ())
