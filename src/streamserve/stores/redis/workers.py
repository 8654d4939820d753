"""This process as a worker: its lease, the runs that it owns, the runs of others that it reads, the lost ones."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace

from streamserve.stores.base import RunRecord, StoreDown
from streamserve.stores.redis import scripts
from streamserve.stores.redis.claims import Claims
from streamserve.stores.redis.client import Client
from streamserve.stores.redis.keys import Keys
from streamserve.stores.redis.records import fields_of, record_of

logger = logging.getLogger(__name__)

# Lost runs handed out at once.
BATCH = 100
# A worker whose lease ended may wake, start runs and die again: it is looked at for so long, in milliseconds.
FORGET = 60_000
# What is kept of readers if nobody takes it back, in milliseconds.
READERS_TTL = 86_400_000
# A run older than this is not recovered, in milliseconds.
REQUEST_TTL = 86_400_000

GOOD, OVER, UNKNOWN = range(3)


class Worker:
    """One worker among those that share a Redis.

    Args:
        client: of Redis.
        keys: the names.
        lease: seconds.
        clock: monotonic seconds.
        on_fenced: called with the id of a run that another worker has taken over.
        on_emptied: called when Redis has lost what it knew.
    """

    def __init__(
        self,
        client: Client,
        keys: Keys,
        lease: float,
        clock: Callable[[], float],
        on_fenced: Callable[[str], None],
        on_emptied: Callable[[], None],
    ) -> None:
        self.id = uuid.uuid4().hex
        self.owned: dict[str, RunRecord] = {}
        # Runs whose start failed halfway: perhaps their row is stored, but nobody runs them.
        self.unborn: dict[str, RunRecord] = {}
        self.claims = Claims(client, keys)
        self._client = client
        self._keys = keys
        self._lease = lease
        self._clock = clock
        self._on_fenced = on_fenced
        self._on_emptied = on_emptied
        self._reads: set[str] = set()
        self._over: set[str] = set()
        self._leaving: list[RunRecord] = []
        self._known = False
        self._emptied_at: float | None = None
        self._lost: list[str] = []
        self._half_taken: set[str] = set()

    @property
    def amnesic(self) -> bool:
        """Whether Redis came up empty a moment ago: the owners are storing their runs again."""
        return self._emptied_at is not None and self._clock() - self._emptied_at < self._lease

    async def beat(self) -> None:
        """Renews the lease, and notices if it had ended or Redis lost it."""
        milliseconds = int(self._lease * 1000)
        control = self._keys.control(self.id)
        keys = (self._keys.leases, self._keys.beats)
        state, lost = await self._client.run(scripts.BEAT, keys, self.id, milliseconds, control)
        self._lost = [worker.decode() for worker in lost]
        if state == UNKNOWN and self._known:
            logger.warning("redis lost its data: this worker's runs are stored again")
            self._emptied_at = self._clock()
            self._known = False
            await self._store_again()
            self._on_emptied()
        elif state == OVER:
            await self._look_for_fences()
        self._known = True
        if self.owned:  # a cluster's node may have lost these names only: who dies then must still be found by its runs
            await self._client.do("SADD", self._keys.owned(self.id), *self.owned)
        await self._forget_over()
        await self._discard_unborn()

    async def leave(self) -> None:
        """Ends the lease at once."""
        await self._client.do("ZADD", self._keys.leases, 1, self.id)

    async def own(self, run: RunRecord) -> bool:
        """Makes this worker the owner of a new run; False if it is stored already."""
        # First the set, then the row: who dies between leaves a name without a run, not a run that nobody finds.
        await self._client.do("SADD", self._keys.owned(self.id), run.run_id)
        if run.request is not None:
            await self._client.do("SET", self._keys.request(run.run_id), run.request, "PX", REQUEST_TTL)
        return bool(await self._client.run(scripts.CREATE, [self._keys.run(run.run_id)], *fields_of(run, self.id)))

    def disown(self, run_id: str) -> None:
        """The run has ended or has another owner; told to Redis with the next beat."""
        run = self.owned.pop(run_id, None)
        if run is not None:
            self._over.add(run_id)
            self._leaving += [run] if run.thread is not None else []

    async def drop_request(self, run_id: str) -> None:
        """Nobody goes on with the run: it has ended, or somebody wants it cancelled."""
        await self._client.do("UNLINK", self._keys.request(run_id))

    async def discard(self, run_id: str) -> bool:
        """Drops a run that never started; False if somebody reads it already."""
        keys = [self._keys.run(run_id), self._keys.readers(run_id)]
        gone = bool(await self._client.run(scripts.DISCARD, keys))
        if gone:
            self._over.add(run_id)
        return gone

    async def set_reading(self, run_id: str, reading: bool) -> None:
        """See RunStore."""
        (self._reads.add if reading else self._reads.discard)(run_id)
        await self._client.do("SADD" if reading else "SREM", self._keys.reads(self.id), run_id)
        await self._tell_reading(self.id, run_id, run_id in self._reads)

    async def _tell_reading(self, worker: str, run_id: str, reading: bool) -> None:
        keys = [self._keys.run(run_id), self._keys.readers(run_id)]
        control = self._keys.control("")
        await self._client.run(scripts.READING, keys, worker, int(reading), control, run_id, READERS_TTL)

    async def is_read_elsewhere(self, run_id: str) -> bool:
        """See RunStore."""
        workers = [name.decode() for name in await self._client.do("HKEYS", self._keys.readers(run_id))]
        others = [name for name in workers if name != self.id]
        alive = scripts.ALIVE, (self._keys.leases, self._keys.beats)
        return bool(others and await self._client.run(*alive, *others))

    async def take_over_lost(self) -> list[RunRecord]:
        """See RunStore."""
        await self.beat()
        taken: list[RunRecord] = []
        try:
            await self._take_all(taken)
        except StoreDown as error:
            if not taken:
                raise
            logger.warning("the other lost runs are taken over later: %s", error)
        return taken

    def give_up(self, run_id: str) -> None:
        """See RunStore; the run is taken from this worker itself."""
        self._half_taken.add(run_id)

    async def _take_all(self, taken: list[RunRecord]) -> None:
        for run_id in list(self._half_taken):
            await self._take(self.id, run_id, taken)
        for worker in self._lost:
            if len(taken) < BATCH:
                await self._take_from(worker, taken)

        async def take(unborn: RunRecord) -> bool:
            await self._take(self.id, unborn.run_id, taken)
            return True

        await self._settle_unborn(take)

    async def _take_from(self, worker: str, taken: list[RunRecord]) -> None:
        lost = await self._client.do("SRANDMEMBER", self._keys.owned(worker), BATCH)
        read = await self._client.do("SRANDMEMBER", self._keys.reads(worker), BATCH)
        for run_id in (name.decode() for name in lost):
            await self._client.do("SADD", self._keys.owned(self.id), run_id)
            await self._take(worker, run_id, taken)
            if run_id not in self.owned:
                await self._client.do("SREM", self._keys.owned(self.id), run_id)
            await self._client.do("SREM", self._keys.owned(worker), run_id)
        for run_id in (name.decode() for name in read):
            await self._tell_reading(worker, run_id, reading=False)
            await self._client.do("SREM", self._keys.reads(worker), run_id)
        if not lost and not read:
            await self._client.run(scripts.FORGET, [self._keys.leases], worker, FORGET)

    async def _take(self, worker: str, run_id: str, taken: list[RunRecord]) -> None:
        request = await self._client.do("GET", self._keys.request(run_id))
        # If the reply is lost the run may be this worker's already: then it is taken from itself.
        self._half_taken.add(run_id)
        flat = await self._client.run(scripts.TAKE, [self._keys.run(run_id)], worker, self.id)
        self._half_taken.discard(run_id)
        if (record := record_of(flat)) is not None:
            record.request = request
            self.owned[run_id] = record
            taken.append(record)

    async def _store_again(self) -> None:
        for record in list(self.owned.values()):
            await self.own(replace(record, last_id=0))
            await self.claims.enter(record, alone=False)
        for run_id in list(self._reads):
            await self.set_reading(run_id, True)

    async def _look_for_fences(self) -> None:
        owned = list(self.owned.items())
        found = await self._client.fields([self._keys.run(run_id) for run_id, _ in owned], "attempt")
        for (run_id, record), (attempt,) in zip(owned, found, strict=True):
            if attempt is not None and int(attempt) != record.attempt:
                self._on_fenced(run_id)

    async def look_for_cancels(self) -> list[str]:
        """Runs of this worker that somebody wants cancelled."""
        owned = list(self.owned)
        found = await self._client.fields([self._keys.run(run_id) for run_id in owned], "cancel") if owned else []
        return [run_id for run_id, (cancel,) in zip(owned, found, strict=True) if cancel]

    async def _forget_over(self) -> None:
        if self._over:
            over, self._over = self._over, set()
            try:
                await self._client.do("SREM", self._keys.owned(self.id), *over)
            except StoreDown:
                self._over |= over
                raise
        while self._leaving:
            await self.claims.leave(self._leaving[-1])
            self._leaving.pop()

    async def _discard_unborn(self) -> None:
        # A run that somebody joined meanwhile is not dropped but ends as lost: take_over_lost hands it out.
        async def discard(record: RunRecord) -> bool:
            if not await self.discard(record.run_id):
                return False
            if record.key:
                await self._client.run(scripts.UNCLAIM, [self._keys.key(record.key)], record.run_id)
            return True

        await self._settle_unborn(discard)

    async def _settle_unborn(self, settle: Callable[[RunRecord], Awaitable[bool]]) -> None:
        # Beats overlap (/readyz, lookups): whoever takes a run out looks after it alone.
        for run_id in list(self.unborn):
            record, settled = self.unborn.pop(run_id, None), False
            if record is None:
                continue
            try:
                settled = await settle(record)
            finally:
                if not settled:
                    self.unborn[run_id] = record
