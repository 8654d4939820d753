"""The RunStore contract on Redis, single or cluster."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import orjson

from streamserve.stores.base import Fenced, Gap, Outcome, RunRecord, Slice, StoreDown, UnknownRun, Wake
from streamserve.stores.redis import scripts
from streamserve.stores.redis.client import CONNECTIONS, Client
from streamserve.stores.redis.keys import Keys
from streamserve.stores.redis.listener import Listener, cancel
from streamserve.stores.redis.records import message_of, record_of
from streamserve.stores.redis.retention import Bounds, Pieces, Retention
from streamserve.stores.redis.sweep import Sweep
from streamserve.stores.redis.workers import Worker
from streamserve.stores.tails import Tails

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
        retention: seconds that an ended run's blocks are kept.
        tombstone: seconds that its record is kept after that.
        max_runs: ended runs kept at most; the oldest go first.
        max_bytes: of the blocks of ended runs together; the oldest go first.
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
        retention: float = 3600.0,
        tombstone: float = 86_400.0,
        max_runs: int = 10_000,
        max_bytes: int = 256 * 2**20,
        clock: Callable[[], float] = time.time,
        prefix: str = "streamserve",
        connections: int = CONNECTIONS,
    ) -> None:
        self.on_cancel: Callable[[str], None] = lambda _run_id: None
        self.on_readers: Callable[[str], None] = lambda _run_id: None
        self._lease = lease
        self._clock = clock
        self._bounds = Bounds(retention, tombstone, max_runs, max_bytes)
        self._keys = Keys(prefix)
        self._client = Client(url, timeout=min(ANSWER_LIMIT, lease / 2), connections=connections)
        self._tails = Tails(self._followed, self._unfollowed)
        self._pieces = Pieces()
        self._worker = Worker(self._client, self._keys, lease, time.monotonic, self._fenced, self._emptied)
        self._retention = Retention(self._client, self._keys, self._bounds, clock, self._purged)
        control = self._keys.control(self._worker.id)
        self._listener = Listener(self._client, control, self._heard, self._subscribed, self._connected)
        self._sweep = Sweep(self._client, self._keys, self._tails, self._listener)
        self._tasks: set[asyncio.Task[None]] = set()
        self._heard_at = 0.0

    async def open(self) -> None:
        """See RunStore; a Redis that is away is waited for, /readyz tells."""
        self._client.open()
        self._heard_at = time.monotonic()
        self._listener.open()
        for work in (self._beat_forever(), self._sweep.forever(), self._retention.seal_forever()):
            self._beside(work)
        try:
            await self._worker.beat()
        except StoreDown as error:
            logger.error("the store is away: %s", error)

    async def close(self) -> None:
        """See RunStore."""
        await cancel(self._tasks)
        await self._listener.close()
        try:
            await self._worker.leave()
        except StoreDown as error:
            logger.warning("the lease of this worker ends by itself: %s", error)
        await self._client.close()

    async def check(self) -> None:
        """See RunStore; writes, since a full Redis can still be read."""
        await self._worker.beat()

    async def acquire(self, run: RunRecord) -> tuple[RunRecord, bool]:
        """See RunStore."""
        if run.key and (found := await self._named(run.key)):
            return found, False
        try:
            if not await self._worker.own(run):
                await self._client.do("HSET", self._keys.run(run.run_id), "worker", self._worker.id)
            winner = await self._claim(run)
        except (StoreDown, asyncio.CancelledError):
            # Perhaps stored, certainly not started.
            self._worker.unborn[run.run_id] = run
            raise
        if winner is not None:
            return winner, False
        self._worker.owned[run.run_id] = run
        return run, True

    async def _named(self, key: str) -> RunRecord | None:
        name = await self._client.do("GET", self._keys.key(key))
        record = await self._get(name.decode()) if name else None
        return None if record is None or record.purged else record

    async def _claim(self, run: RunRecord) -> RunRecord | None:
        # The row is there before the key names it: whoever finds a key finds its run, whenever a claimer dies.
        # A key whose run is gone (purged, or lost with a shard) is replaced by comparing it first.
        stale = ""
        while run.key:
            ttl = self._bounds.record_ttl + KEY_SLACK
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
        keys = self._keys.run(run_id), self._keys.blocks(run_id)
        ending = self._ending(outcome)
        channel = self._keys.channel(run_id)
        answer = await self._client.run(scripts.APPEND, keys, attempt, first_seq, channel, *ending, *blocks)
        state, last = answer[0], int(answer[1])
        if state == b"unknown":
            raise UnknownRun(run_id)
        if state == b"fenced":
            self._disown(run_id)
            raise Fenced(run_id)
        if state == b"gap":
            raise Gap(last + 1)
        whole = first_seq + len(blocks) - 1 == last
        self._tails.feed(run_id, first_seq, blocks, ended=outcome is not None and whole)
        if outcome is not None:
            await self._retention.ended(run_id)
            self._disown(run_id)
        elif answer[2]:
            self.on_cancel(run_id)
        return last + 1

    def _ending(self, outcome: Outcome | None) -> list[str | bytes | int]:
        bounds = self._bounds
        if outcome is None:
            return ["", "", "", "", "", 0, 0]
        now = self._clock()
        error = orjson.dumps(outcome.error) if outcome.error is not None else b""
        ends = repr(now), repr(now + bounds.retention)
        return [outcome.status, error, outcome.output or b"", *ends, bounds.blocks_ttl, bounds.record_ttl]

    async def restore(self, run: RunRecord) -> None:
        """See RunStore."""
        await self._worker.own(replace(run, last_id=0))
        self._worker.owned[run.run_id] = run
        if run.key:
            ttl = self._bounds.record_ttl + KEY_SLACK
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
            record.purged = record.purged or record.expires_at * 1000 + self._bounds.blocks_ttl < self._clock() * 1000
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
        control = self._keys.control("")
        owner = await self._client.run(scripts.CANCEL, [self._keys.run(run_id)], self._worker.id, control, run_id)
        if owner.decode() == self._worker.id:
            self.on_cancel(run_id)

    async def take_over_lost(self) -> list[RunRecord]:
        """See RunStore."""
        return await self._worker.take_over_lost()

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
            if time.monotonic() - self._heard_at > 2 * self._lease and self._listener.connected.is_set():
                self._heard_at = time.monotonic()
                self._listener.reconnect()

    def _followed(self, run_id: str) -> None:
        if run_id not in self._worker.owned:
            self._listener.add(self._keys.channel(run_id))

    def _unfollowed(self, run_id: str) -> None:
        self._listener.remove(self._keys.channel(run_id))
        self._sweep.saw(run_id, live=False)

    def _disown(self, run_id: str) -> None:
        self._worker.disown(run_id)
        if run_id in self._tails:
            self._listener.add(self._keys.channel(run_id))

    def _heard(self, channel: str, data: bytes) -> None:
        self._heard_at = time.monotonic()
        if channel == self._keys.control(self._worker.id):
            return self._told(*data.decode().partition(" ")[::2])
        run_id = channel.removeprefix(self._keys.channel(""))
        if data == b"purged":
            return self._purged(run_id)
        first, ended, blocks = message_of(data)
        self._sweep.saw(run_id, live=not ended)
        return self._tails.feed(run_id, first, blocks, ended=ended)

    def _told(self, what: str, run_id: str) -> None:
        if what == "cancel":
            self.on_cancel(run_id)
        elif what == "readers":
            self.on_readers(run_id)

    def _subscribed(self, channel: str) -> None:
        # What was published before this moment was not heard.
        if channel != self._keys.control(self._worker.id):
            self._sweep.look_soon(channel.removeprefix(self._keys.channel("")))

    def _connected(self) -> None:
        self._heard_at = time.monotonic()
        self._sweep.look_soon(*self._tails)
        self._beside(self._look_for_cancels())

    async def _look_for_cancels(self) -> None:
        try:
            for run_id in await self._worker.look_for_cancels():
                self.on_cancel(run_id)
        except StoreDown as error:
            logger.warning("cancels are heard of with the next block: %s", error)

    def _fenced(self, run_id: str) -> None:
        self.on_cancel(run_id)

    def _emptied(self) -> None:
        self._sweep.look_soon(*self._tails)

    def _purged(self, run_id: str) -> None:
        self._pieces.drop(run_id)
        self._tails.feed(run_id, NOWHERE, ())
