"""What becomes of ended runs: sealed into compressed pieces, purged when old or too many, forgotten at last."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence

import orjson

from streamserve.stores.base import Outcome, Retained, StoreDown
from streamserve.stores.bounds import Bounds
from streamserve.stores.redis import scripts
from streamserve.stores.redis.client import Client
from streamserve.stores.redis.keys import Keys
from streamserve.stores.redis.records import PIECE_BYTES, pack, unpack

logger = logging.getLogger(__name__)

# Blocks read at once for sealing.
READ_BLOCKS = 512
# Unpacked pieces kept: a reader takes one in several reads.
KEPT_PIECES = 16
# Redis's own expiry is a net below the reaper's, and a bit later.
SLACK = 60.0


def blocks_ttl(bounds: Bounds) -> int:
    """Milliseconds after which Redis drops an ended run's blocks if nobody else did."""
    return int((bounds.retention + SLACK) * 1000)


def record_ttl(bounds: Bounds) -> int:
    """Milliseconds after which Redis drops an ended run's record if nobody else did."""
    return int((bounds.retention + bounds.tombstone + SLACK) * 1000)


class Pieces:
    """The pieces that were unpacked last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[int, int, list[bytes]]] = OrderedDict()

    def put(self, run_id: str, last_id: int, first: int, piece: bytes) -> None:
        """Keeps a piece of an ended run with so many blocks."""
        self._kept[run_id] = last_id, first, unpack(piece)
        self._kept.move_to_end(run_id)
        if len(self._kept) > KEPT_PIECES:
            self._kept.popitem(last=False)

    def read(self, run_id: str, after: int, limit: int) -> tuple[list[bytes], bool] | None:
        """Blocks after a cursor and whether they are the last, or None if they are not here."""
        last_id, first, blocks = self._kept.get(run_id, (0, 0, []))
        start = after + 1 - first
        if not blocks or not 0 <= start < len(blocks):
            return None
        found = blocks[start : start + limit]
        return found, after + len(found) >= last_id

    def drop(self, run_id: str) -> None:
        """Forgets a run."""
        self._kept.pop(run_id, None)


class Retention:
    """Seals, purges and forgets.

    Args:
        client: of Redis.
        keys: the names.
        bounds: how long and how much.
        clock: seconds since the epoch.
        on_purged: called with the id of a run whose blocks are gone.
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
        """An outcome for the script that stores the terminal block."""
        now, bounds = self._clock(), self._bounds
        error = orjson.dumps(outcome.error) if outcome.error is not None else b""
        ends = repr(now), repr(now + bounds.retention)
        return [outcome.status, error, outcome.output or b"", *ends, blocks_ttl(bounds), record_ttl(bounds)]

    async def ended(self, run_id: str, size: int, expires_at: float) -> None:
        """Counts an ended run in; the oldest go if there are too many.

        Args:
            run_id: of the run; counting it again is harmless.
            size: of its blocks together.
            expires_at: seconds since the epoch.
        """
        self._to_count[run_id] = size, expires_at
        async with self._counting:  # who comes next finds all that piled up meanwhile
            counted = dict(self._to_count)
            if run_id in counted:
                await self._count(counted)
                for name in counted:
                    del self._to_count[name]

    async def _count(self, ended: dict[str, tuple[int, float]]) -> None:
        keys = [self._keys.ended(what) for what in ("order", "info", "totals")]
        runs = [part for run_id, (size, expires_at) in ended.items() for part in (run_id, f"{size} {expires_at!r}")]
        surplus = await self._client.run(scripts.ENDED, keys, self._bounds.max_runs, self._bounds.max_bytes, *runs)
        for name in surplus:
            await self.purge(name.decode())
        for run_id in ended:
            self._to_seal.put_nowait(run_id)

    async def reap(self, now: float) -> None:
        """See RunStore."""
        keys = [self._keys.ended(what) for what in ("order", "info", "tombstones", "totals")]
        while True:
            due, forgotten, runs, size = await self._client.run(scripts.DUE, keys, repr(now))
            for name in due:
                await self.purge(name.decode())
            for name in forgotten:
                await self._client.do("UNLINK", self._keys.run(name.decode()))
                await self._client.do("ZREM", self._keys.ended("tombstones"), name)
            if not due and not forgotten:
                self.retained = Retained(runs, size)
                return

    async def purge(self, run_id: str) -> None:
        """See RunStore."""
        # The index comes last: who dies before leaves it for the next reaper, and each step can be repeated.
        names = self._keys.run, self._keys.blocks, self._keys.pieces, self._keys.readers
        channel, ttl = self._keys.channel(run_id), record_ttl(self._bounds)
        answer = await self._client.run(scripts.PURGE, [name(run_id) for name in names], channel, ttl)
        if not answer:
            return
        if answer[0]:
            await self._client.run(scripts.UNCLAIM, [self._keys.key(answer[0].decode())], run_id)
        keys = [self._keys.ended(what) for what in ("order", "info", "totals", "tombstones")]
        await self._client.run(scripts.BURY, keys, run_id, repr(self._clock() + self._bounds.tombstone))
        self._on_purged(run_id)

    async def seal_forever(self) -> None:
        """Seals what ends here, one after the other."""
        while True:
            run_id = await self._to_seal.get()
            try:
                await self._seal(run_id)
            except StoreDown as error:
                # Unsealed blocks are read as well, and expire like the others.
                logger.warning("run %s stays unsealed: %s", run_id, error)

    async def _seal(self, run_id: str) -> None:
        firsts: list[int] = []
        first = 1
        async for blocks in self._groups(run_id):
            await self._client.do("HSET", self._keys.pieces(run_id), first, pack(blocks))
            await self._client.do("PEXPIRE", self._keys.pieces(run_id), blocks_ttl(self._bounds))
            firsts.append(first)
            first += len(blocks)
        if firsts:
            names = self._keys.run, self._keys.blocks, self._keys.pieces
            numbers = ",".join(map(str, firsts))
            await self._client.run(scripts.SEAL, [name(run_id) for name in names], numbers, blocks_ttl(self._bounds))

    async def _groups(self, run_id: str) -> AsyncIterator[list[bytes]]:
        blocks: list[bytes] = []
        size, first = 0, 1
        while found := await self._read(run_id, first):
            first += len(found)
            for block in found:
                blocks.append(block)
                size += len(block)
                if size >= PIECE_BYTES:
                    yield blocks
                    blocks, size = [], 0
        if blocks:
            yield blocks

    async def _read(self, run_id: str, first: int) -> Sequence[bytes]:
        entries = await self._client.do("XRANGE", self._keys.blocks(run_id), f"{first}-0", "+", "COUNT", READ_BLOCKS)
        return [fields[b"b"] if isinstance(fields, dict) else fields[1] for _, fields in entries]
