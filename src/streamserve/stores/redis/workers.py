"""This process as a worker: its lease, the runs that it owns, and the lost runs that it takes over."""

import logging
import time
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

# Maximum number of lost runs handed out at once.
BATCH = 100
# Milliseconds that a worker is looked at after its lease ended: it may wake, start runs and die again.
REMOVE_AFTER = 60_000
# Milliseconds that a run's readers and its request are kept if no worker drops them; then it is not recovered.
TTL = 86_400_000
# Milliseconds that a command may be on its way on a connection that this process has given up.
DISCARDED = 600_000
OVER, UNKNOWN = 1, 2  # states of a lease


class Worker:
    """One of the workers that share a Redis.

    Args:
        lease: seconds.
        on_fenced: callback with the id of a run that another worker has taken over.
        on_disowned: callback with the id of a run that has ended, or that another worker may write from now on.
        on_ended: counts a run that has ended, with the bytes of its blocks, unless it is counted already.
        on_emptied: callback after Redis has lost its data.
    """

    def __init__(
        self,
        client: Client,
        keys: Keys,
        lease: float,
        on_fenced: Callable[[str], None],
        on_disowned: Callable[[str], None],
        on_ended: Callable[[str, int], Awaitable[None]],
        on_emptied: Callable[[], None],
    ) -> None:
        self.id = uuid.uuid4().hex
        self.lease = lease
        self.owned: dict[str, RunRecord] = {}
        self.claims = Claims(client, keys)
        # Runs whose start failed halfway: they may be stored, but no process executes them.
        self.pending_discard: dict[str, RunRecord] = {}
        self._client = client
        self._keys = keys
        self._on_fenced = on_fenced
        self._on_disowned = on_disowned
        self._on_ended = on_ended
        self._on_emptied = on_emptied
        self._reads: set[str] = set()
        self._disowned: dict[str, RunRecord | None] = {}
        self._pending_takeover: set[str] = set()
        self._dead: list[str] = []
        self._has_lease = False
        self._emptied_at: float | None = None

    @property
    def recently_emptied(self) -> bool:
        """True if Redis came up empty within the last lease: the owners are storing their runs again."""
        return self._emptied_at is not None and time.monotonic() - self._emptied_at < self.lease

    async def heartbeat(self) -> None:
        """Renew the lease; handle a lease that had ended and a Redis that has lost its data."""
        milliseconds, control = int(self.lease * 1000), self._keys.control(self.id)
        state, dead = await self._client.run(scripts.HEARTBEAT, self._keys.workers(), self.id, milliseconds, control)
        self._dead = [worker.decode() for worker in dead]
        if state == UNKNOWN and self._has_lease:
            logger.warning("redis lost its data: this worker's runs are stored again")
            self._emptied_at = time.monotonic()
            self._has_lease = False
            await self._store_again()
            self._on_emptied()
        elif state == OVER:
            await self._look_for_fences()
        self._has_lease = True
        if self.owned:  # a node of a cluster may have lost this set only, and it leads to the runs of a dead worker
            await self._client.do("SADD", self._keys.worker(self.id, "runs"), *self.owned)
        await self._forget_disowned()
        await self._discard_pending()

    async def leave(self) -> None:
        """End the lease at once."""
        await self._client.do("ZADD", self._keys.workers()[0], 1, self.id)

    async def own(self, run: RunRecord) -> bool:
        """Store a new run of this worker; return False if it is stored already."""
        # The set comes first: a worker that dies in between leaves a name without a run, not a run that is never found.
        await self._client.do("SADD", self._keys.worker(self.id, "runs"), run.run_id)
        keys = [self._keys.run(run.run_id, what) for what in ("run", "request")]
        return bool(await self._client.run(scripts.CREATE, keys, run.request or b"", TTL, *fields_of(run, self.id)))

    def disown(self, run_id: str) -> None:
        """Note that a run has ended or has another owner. The next heartbeat tells Redis."""
        if (run := self.owned.pop(run_id, None)) is not None:
            self._disowned[run_id] = run
        self._on_disowned(run_id)

    async def drop_request(self, run_id: str) -> None:
        """Drop the request of a run that is not to be recovered."""
        await self._client.do("UNLINK", self._keys.run(run_id, "request"))

    async def discard(self, run_id: str, *, guard: int = 0) -> bool:
        """Drop a run that never started, and keep it from being created for `guard` ms.

        Returns:
            False if the run has readers already.
        """
        keys = [self._keys.run(run_id, what) for what in ("run", "readers", "request")]
        gone = bool(await self._client.run(scripts.DISCARD, keys, guard))
        if gone:
            self._disowned[run_id] = None
        return gone

    async def set_reading(self, run_id: str, reading: bool) -> None:
        """Note whether this process has readers of a run, as RunStore.set_reading."""
        (self._reads.add if reading else self._reads.discard)(run_id)
        await self._client.do("SADD" if reading else "SREM", self._keys.worker(self.id, "reads"), run_id)
        await self._notify_owner(self.id, run_id, run_id in self._reads)

    async def _notify_owner(self, worker: str, run_id: str, reading: bool) -> None:
        keys = [self._keys.run(run_id), self._keys.run(run_id, "readers")]
        control = self._keys.control("")
        await self._client.run(scripts.READING, keys, worker, int(reading), control, run_id, TTL)

    async def is_read_elsewhere(self, run_id: str) -> bool:
        """Return whether a live worker other than this one has readers of a run."""
        workers = [name.decode() for name in await self._client.do("HKEYS", self._keys.run(run_id, "readers"))]
        others = [name for name in workers if name != self.id]
        return bool(others and await self._client.run(scripts.ALIVE, self._keys.workers(), *others))

    async def cancelled(self) -> list[str]:
        """Return the runs of this worker whose cancel was requested."""
        return [run.run_id for run, cancel in await self._field_of_owned("cancel") if cancel]

    def give_up(self, run_id: str) -> None:
        """Have this worker take an own run over from itself."""
        self._pending_takeover.add(run_id)

    async def take_over_lost(self) -> list[RunRecord]:
        """Take over runs of dead workers, as RunStore.take_over_lost."""
        await self.heartbeat()
        records: list[RunRecord] = []
        try:
            for run_id in list(self._pending_takeover):
                await self._take_over(self.id, run_id, records)
            for worker in self._dead:
                if len(records) < BATCH:
                    await self._take_over_all(worker, records)
        except StoreDown as error:
            if not records:
                raise
            logger.warning("the other lost runs are taken over later: %s", error)
        return records

    async def _take_over_all(self, worker: str, records: list[RunRecord]) -> None:
        runs, reads = self._keys.worker(worker, "runs"), self._keys.worker(worker, "reads")
        own = self._keys.worker(self.id, "runs")
        owned = [name.decode() for name in await self._client.do("SRANDMEMBER", runs, BATCH)]
        read = [name.decode() for name in await self._client.do("SRANDMEMBER", reads, BATCH)]
        for run_id in owned:
            await self._client.do("SADD", own, run_id)
            await self._take_over(worker, run_id, records)
            if run_id not in self.owned:
                await self._client.do("SREM", own, run_id)
            await self._client.do("SREM", runs, run_id)
        for run_id in read:
            await self._notify_owner(worker, run_id, reading=False)
            await self._client.do("SREM", reads, run_id)
        if not owned and not read:
            await self._client.run(scripts.REMOVE_WORKER, self._keys.workers()[:1], worker, REMOVE_AFTER)

    async def _take_over(self, worker: str, run_id: str, records: list[RunRecord]) -> None:
        request = await self._client.do("GET", self._keys.run(run_id, "request"))
        # If the reply is lost the run may be this worker's already: then this worker takes it over from itself.
        self._pending_takeover.add(run_id)
        keys = [self._keys.run(run_id, what) for what in ("run", "request")]
        flat = await self._client.run(scripts.TAKE, keys, worker, self.id)
        if len(flat) == 1:
            await self._on_ended(run_id, int(flat[0]))
        elif (record := record_of(flat)) is not None:
            record.request = request
            self.owned[run_id] = record
            records.append(record)
        self._pending_takeover.discard(run_id)
        if len(flat) <= 1 and worker == self.id:
            self.disown(run_id)  # it ended, or was taken over, while this worker could not write

    async def _store_again(self) -> None:
        for record in list(self.owned.values()):
            await self.own(replace(record, last_id=0))
            await self.claims.enter(record, alone=False)
        for run_id in list(self._reads):
            await self.set_reading(run_id, True)

    async def _look_for_fences(self) -> None:
        for run, attempt in await self._field_of_owned("attempt"):
            if attempt is not None and int(attempt) != run.attempt:
                self._on_fenced(run.run_id)

    async def _field_of_owned(self, field: str) -> list[tuple[RunRecord, bytes | None]]:
        owned = list(self.owned.values())
        found = await self._client.fields([self._keys.run(run.run_id) for run in owned], field)
        return [(run, value) for run, (value,) in zip(owned, found, strict=True)]

    async def _forget_disowned(self) -> None:
        disowned, self._disowned = self._disowned, {}
        try:
            if disowned:
                await self._client.do("SREM", self._keys.worker(self.id, "runs"), *disowned)
            for run in disowned.values():
                if run is not None:
                    await self.claims.leave(run)
        except BaseException:
            self._disowned = disowned | self._disowned
            raise

    async def _discard_pending(self) -> None:
        # Heartbeats overlap (/readyz, lookups): each run is settled by the one that took it out.
        while self.pending_discard:
            run_id, run = self.pending_discard.popitem()
            try:
                if not await self.discard(run_id, guard=DISCARDED):
                    self._pending_takeover.add(run_id)  # it has readers, who see it end as lost
                elif run.key:
                    await self._client.run(scripts.UNCLAIM, [self._keys.key(run.key)], run_id)
            except BaseException:
                self.pending_discard[run_id] = run
                raise
