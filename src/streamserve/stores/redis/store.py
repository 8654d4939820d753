"""The RunStore contract on Redis, single or cluster."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from streamserve.stores.base import Outcome, Retained, RunRecord, RunStore, Slice, Stored, StoreDown, ThreadLocked, Wake
from streamserve.stores.bounds import DEFAULT_BOUNDS, Bounds
from streamserve.stores.redis import scripts
from streamserve.stores.redis.client import CONNECTIONS, Client
from streamserve.stores.redis.connection import cancel
from streamserve.stores.redis.idempotency import IdempotencyKeys
from streamserve.stores.redis.keys import Keys
from streamserve.stores.redis.pipeline import FENCED, OK, Answer, Append, Appends
from streamserve.stores.redis.records import Pieces, record_of
from streamserve.stores.redis.retention import Retention, blocks_ttl
from streamserve.stores.redis.subscriber import Subscriber
from streamserve.stores.redis.workers import Worker

logger = logging.getLogger(__name__)

HEARTBEATS_PER_LEASE = 4
# Seconds that Redis may take for a reply, unless the lease is shorter than twice that.
REPLY_LIMIT = 2.0
# Above any block's number: a tail that begins there has no blocks for a reader.
NOWHERE = 2**62


class RedisStore(RunStore):
    """Keeps runs in Redis.

    Args:
        url: redis://HOST:PORT/DB, rediss://, redis+cluster:// or rediss+cluster://.
        lease: seconds without a heartbeat after which a worker has lost its runs.
        bounds: what is kept of ended runs.
        clock: seconds since the epoch.
        prefix: of all keys and channels.
        connections: maximum number of connections; further calls wait for a free one.

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
        self._clock = clock
        self._bounds = bounds
        self._keys = keys = Keys(prefix)
        self._client = client = Client(url, timeout=min(REPLY_LIMIT, lease / 2), connections=connections)
        self._appends = Appends(client, keys)
        self._pieces = Pieces()
        self._idempotency = IdempotencyKeys(client, keys, bounds, self._get)
        self._retention = Retention(client, keys, bounds, clock, self._purged)
        self._worker = Worker(client, keys, lease, self._cancel, self._disowned, self._retention.ended, self._emptied)
        self._subscriber = Subscriber(
            client, keys, self._worker, self._cancel, lambda run_id: self.on_readers(run_id), self._purged
        )
        self._tails = self._subscriber.tails
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def retained(self) -> Retained:
        return self._retention.retained

    async def open(self) -> None:
        # A Redis that is away is waited for; /readyz reports it.
        self._client.open()
        self._start(self._subscriber.forever())
        self._start(self._heartbeat_forever())
        self._start(self._subscriber.sweep_forever())
        self._start(self._retention.seal_forever())
        try:
            await self._worker.heartbeat()
        except StoreDown as error:
            logger.error("the store is away: %s", error)

    async def close(self) -> None:
        await cancel(self._tasks)
        await self._appends.close()
        try:
            await self._worker.leave()
        except StoreDown as error:
            logger.warning("the lease of this worker ends by itself: %s", error)
        await self._client.close()

    async def check(self) -> None:
        await self._worker.heartbeat()  # it writes, since a full Redis can still be read

    async def acquire(self, run: RunRecord, *, alone: bool = False) -> tuple[RunRecord, bool]:
        if run.key and (found := await self.named(run.key)):
            return found, False
        try:
            if not await self._worker.own(run):
                await self._client.do("HSET", self._keys.run(run.run_id), "worker", self._worker.id)
            winner = await self._enter(run, alone) or await self._claim(run)
        except (StoreDown, asyncio.CancelledError):
            # The run may be stored, but it never starts.
            self._worker.pending_discard[run.run_id] = run
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
        raise ThreadLocked(holder)

    async def ahead(self, run: RunRecord) -> list[str]:
        return await self._worker.claims.ahead(run)

    async def named(self, key: str) -> RunRecord | None:
        return await self._idempotency.named(key)

    async def _claim(self, run: RunRecord) -> RunRecord | None:
        winner = await self._idempotency.claim(run)
        if winner is not None:
            await self._worker.discard(run.run_id)
        return winner

    async def append(
        self, run_id: str, attempt: int, first_seq: int, blocks: Sequence[bytes], outcome: Outcome | None = None
    ) -> int:
        results: asyncio.Queue[int | Exception] = asyncio.Queue()
        self.post(run_id, attempt, first_seq, blocks, outcome, results.put_nowait)
        if isinstance(result := await results.get(), Exception):
            raise result
        return result

    def post(
        self,
        run_id: str,
        attempt: int,
        first_seq: int,
        blocks: Sequence[bytes],
        outcome: Outcome | None,
        stored: Stored,
    ) -> None:
        def answer(result: Answer | StoreDown) -> None:
            if not isinstance(result, Answer):
                stored(result)
            elif result.state != OK:
                if result.state == FENCED:
                    self._worker.disown(run_id)
                stored(result.refusal(run_id))
            else:
                is_whole = first_seq + len(blocks) - 1 == result.last_id
                self._tails.feed(run_id, first_seq, blocks, ended=outcome is not None and is_whole)
                if outcome is not None:
                    self._start(self._end(run_id, result, stored))
                    return
                if result.cancelled:
                    self.on_cancel(run_id)
                stored(result.last_id + 1)

        ending = self._retention.ending(outcome) if outcome is not None else ()
        self._appends.post(Append(run_id, attempt, first_seq, blocks, ending, answer))

    async def _end(self, run_id: str, answer: Answer, stored: Stored) -> None:
        try:
            await self._retention.ended(run_id, answer.size)
            if (run := self._worker.owned.get(run_id)) is not None and run.request is not None:
                await self._worker.drop_request(run_id)
        except Exception as error:  # the writer waits for the answer, whatever it is
            stored(error)
            return
        self._worker.disown(run_id)
        stored(answer.last_id + 1)

    async def restore(self, run: RunRecord) -> None:
        await self._worker.own(replace(run, last_id=0))
        self._worker.owned[run.run_id] = run
        await self._worker.claims.enter(run, alone=False)
        await self._idempotency.claim(run)

    async def get(self, run_id: str) -> RunRecord | None:
        record = await self._get(run_id)
        if record is None:
            await self._raise_if_emptied(run_id)
        return record

    async def _get(self, run_id: str) -> RunRecord | None:
        record = record_of(await self._client.run(scripts.RECORD, [self._keys.run(run_id)]))
        if record is not None and record.expires_at is not None:
            # The reaper may have died with the other workers.
            record.purged = record.purged or record.expires_at * 1000 + blocks_ttl(self._bounds) < self._clock() * 1000
        return record

    async def read(self, run_id: str, after: int, limit: int) -> Slice:
        near = self._tails.read(run_id, after, limit) or self._pieces.read(run_id, after, limit)
        if near is not None:
            return near
        keys = [self._keys.run(run_id, what) for what in ("run", "blocks", "pieces")]
        last, *rest = await self._client.run(scripts.READ, keys, after, limit)
        if last == scripts.NO_RUN:
            await self._raise_if_emptied(run_id)
        if last < 0:
            return Slice((), True)
        ended, kind, *found = rest
        if kind == b"piece":
            self._pieces.put(run_id, last, *found)
            return self._pieces.read(run_id, after, limit) or Slice((), False)
        blocks = found[0] if found else []
        is_last = after + len(blocks) >= last
        self._subscriber.saw(run_id, live=not ended and run_id not in self._worker.owned)
        if is_last and after <= last:
            self._tails.feed(run_id, after + 1, blocks, ended=bool(ended))
        return Slice(blocks, bool(ended) and is_last)

    async def _raise_if_emptied(self, run_id: str) -> None:
        await self._worker.heartbeat()  # it notices a Redis that came up empty
        if self._worker.recently_emptied or run_id in self._worker.owned or self._subscriber.is_live(run_id):
            raise StoreDown("Redis came up empty: the runs are being stored again")

    def show(self, run_id: str, first_seq: int, blocks: Sequence[bytes]) -> None:
        self._tails.feed(run_id, first_seq, blocks)

    def subscribe(self, run_id: str, wake: Wake) -> Wake:
        return self._tails.subscribe(run_id, wake)

    async def set_reading(self, run_id: str, reading: bool) -> None:
        await self._worker.set_reading(run_id, reading)

    async def is_read_elsewhere(self, run_id: str) -> bool:
        return await self._worker.is_read_elsewhere(run_id)

    async def request_cancel(self, run_id: str) -> None:
        await self._worker.drop_request(run_id)
        control = self._keys.control("")
        owner = await self._client.run(scripts.CANCEL, [self._keys.run(run_id)], self._worker.id, control, run_id)
        if owner.decode() == self._worker.id:
            self.on_cancel(run_id)

    async def take_over_lost(self) -> list[RunRecord]:
        return await self._worker.take_over_lost()

    def give_up(self, run_id: str) -> None:
        self._worker.give_up(run_id)

    async def reap(self, now: float) -> None:
        await self._retention.reap(now)

    async def purge(self, run_id: str) -> None:
        await self._retention.purge(run_id)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _heartbeat_forever(self) -> None:
        while True:
            await asyncio.sleep(self._worker.lease / HEARTBEATS_PER_LEASE)
            try:
                await self._worker.heartbeat()
            except StoreDown as error:
                logger.warning("the lease is not renewed: %s", error)
            except Exception:  # without heartbeats every run of this process would be lost
                logger.exception("the lease is not renewed")

    def _disowned(self, run_id: str) -> None:
        self._subscriber.disowned(run_id)

    def _cancel(self, run_id: str) -> None:
        self.on_cancel(run_id)

    def _emptied(self) -> None:
        self._subscriber.look_soon(*self._tails)

    def _purged(self, run_id: str) -> None:
        self._pieces.drop(run_id)
        self._tails.feed(run_id, NOWHERE, ())
