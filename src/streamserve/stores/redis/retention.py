"""Retention of ended runs: seal them into compressed pieces, purge them when old or too many, then forget them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import orjson

from streamserve.stores.base import Outcome, Retained, StoreDown
from streamserve.stores.bounds import Bounds
from streamserve.stores.redis import scripts
from streamserve.stores.redis.client import Client
from streamserve.stores.redis.keys import Keys
from streamserve.stores.redis.records import PIECE_BYTES, pack

logger = logging.getLogger(__name__)

# Blocks read at once for sealing.
READ_BLOCKS = 512
# Seconds by which Redis's own expiry comes after the reaper; it drops what no reaper dropped.
SLACK = 60.0


def blocks_ttl(bounds: Bounds) -> int:
    """Return the milliseconds after which Redis itself drops an ended run's blocks."""
    return int((bounds.retention + SLACK) * 1000)


def record_ttl(bounds: Bounds) -> int:
    """Return the milliseconds after which Redis itself drops an ended run's record."""
    return int((bounds.retention + bounds.tombstone + SLACK) * 1000)


class Retention:
    """Seals, purges and forgets.

    Args:
        bounds: what is kept, and for how long.
        clock: seconds since the epoch.
        on_purged: callback with the id of a run whose blocks are gone.
    """

    def __init__(
        self, client: Client, keys: Keys, bounds: Bounds, clock: Callable[[], float], on_purged: Callable[[str], None]
    ) -> None:
        self._client = client
        self._keys = keys
        self._bounds = bounds
        self._clock = clock
        self._on_purged = on_purged
        self.retained = Retained()
        self._to_seal: asyncio.Queue[str] = asyncio.Queue()
        self._to_count: dict[str, tuple[int, float]] = {}
        self._counting = asyncio.Lock()

    def ending(self, outcome: Outcome) -> list[str | bytes | int]:
        """Return an outcome as the script takes it that stores the terminal block."""
        now, bounds = self._clock(), self._bounds
        error = orjson.dumps(outcome.error) if outcome.error is not None else b""
        ends = repr(now), repr(now + bounds.retention)
        return [outcome.status, error, outcome.output or b"", *ends, blocks_ttl(bounds), record_ttl(bounds)]

    async def ended(self, run_id: str, size: int) -> None:
        """Count an ended run and the bytes of its blocks, once; purge the oldest runs if there are too many."""
        self._to_count[run_id] = size, self._clock() + self._bounds.retention
        async with self._counting:  # the next caller counts all runs that ended meanwhile
            counted = dict(self._to_count)
            if run_id in counted:
                await self._count(counted)
                for name in counted:
                    del self._to_count[name]

    async def _count(self, ended: dict[str, tuple[int, float]]) -> None:
        keys = self._keys.ended("order", "info", "totals")
        runs = [part for run_id, (size, expires_at) in ended.items() for part in (run_id, f"{size} {expires_at!r}")]
        surplus = await self._client.run(scripts.ENDED, keys, self._bounds.max_runs, self._bounds.max_bytes, *runs)
        for name in surplus:
            await self.purge(name.decode())
        for run_id in ended:
            self._to_seal.put_nowait(run_id)

    async def reap(self, now: float) -> None:
        """Drop what is past its retention, as RunStore.reap."""
        keys = self._keys.ended("order", "info", "tombstones", "totals")
        while True:
            due, forgotten, runs, size = await self._client.run(scripts.DUE, keys, repr(now))
            for name in due:
                await self.purge(name.decode())
            for name in forgotten:
                await self._client.do("UNLINK", self._keys.run(name.decode()))
                await self._client.do("ZREM", *self._keys.ended("tombstones"), name)
            if not due and not forgotten:
                self.retained = Retained(runs, size)
                return

    async def purge(self, run_id: str) -> None:
        """Drop the blocks of an ended run, as RunStore.purge."""
        # The index comes last: what a worker leaves that dies before is found by the next reaper, and repeated.
        keys = [self._keys.run(run_id, what) for what in ("run", "blocks", "pieces", "readers")]
        found = await self._client.run(scripts.PURGE, keys, self._keys.channel(run_id), record_ttl(self._bounds))
        if not found:
            return
        if found[0]:
            await self._client.run(scripts.UNCLAIM, [self._keys.key(found[0].decode())], run_id)
        keys = self._keys.ended("order", "info", "totals", "tombstones")
        await self._client.run(scripts.TOMBSTONE, keys, run_id, repr(self._clock() + self._bounds.tombstone))
        self._on_purged(run_id)

    async def seal_forever(self) -> None:
        """Seal the runs that end in this process, one after the other."""
        while True:
            run_id = await self._to_seal.get()
            try:
                await self._seal(run_id)
            except StoreDown as error:
                # Its blocks can be read and expire all the same.
                logger.warning("run %s stays unsealed: %s", run_id, error)
            except Exception:
                logger.exception("run %s stays unsealed", run_id)

    async def _seal(self, run_id: str) -> None:
        keys, ttl = [self._keys.run(run_id, what) for what in ("run", "blocks", "pieces")], blocks_ttl(self._bounds)
        firsts: list[int] = []
        first = 1
        async for blocks in self._groups(keys[1]):
            await self._client.do("HSET", keys[2], first, pack(blocks))
            await self._client.do("PEXPIRE", keys[2], ttl)
            firsts.append(first)
            first += len(blocks)
        if firsts:
            await self._client.run(scripts.SEAL, keys, ",".join(map(str, firsts)), ttl)

    async def _groups(self, key: str) -> AsyncIterator[list[bytes]]:
        blocks: list[bytes] = []
        size, first = 0, 1
        while found := await self._client.do("XRANGE", key, f"{first}-0", "+", "COUNT", READ_BLOCKS):
            first += len(found)
            for _, fields in found:
                blocks.append(fields[b"b"] if isinstance(fields, dict) else fields[1])
                size += len(blocks[-1])
                if size >= PIECE_BYTES:
                    yield blocks
                    blocks, size = [], 0
        if blocks:
            yield blocks
