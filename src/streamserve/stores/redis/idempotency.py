"""Idempotency keys. A run is stored before its key names it, so that a key leads to its run even if the worker that
claims it dies."""

from collections.abc import Awaitable, Callable

from streamserve.stores.base import RunRecord
from streamserve.stores.bounds import Bounds
from streamserve.stores.redis import scripts
from streamserve.stores.redis.client import Client
from streamserve.stores.redis.keys import Keys
from streamserve.stores.redis.retention import record_ttl

# Milliseconds that an idempotency key is kept longer than its run's record if no worker drops it.
KEY_SLACK = 86_400_000


class IdempotencyKeys:
    """The runs that idempotency keys name.

    Args:
        get: returns the record of a run.
    """

    def __init__(
        self, client: Client, keys: Keys, bounds: Bounds, get: Callable[[str], Awaitable[RunRecord | None]]
    ) -> None:
        self._client = client
        self._keys = keys
        self._ttl = record_ttl(bounds) + KEY_SLACK
        self._get = get

    async def named(self, key: str) -> RunRecord | None:
        """Return the record of the run that a key names, as RunStore.named."""
        name = await self._client.do("GET", self._keys.key(key))
        record = await self._get(name.decode()) if name else None
        return None if record is None or record.purged else record

    async def claim(self, run: RunRecord) -> RunRecord | None:
        """Let a stored run's key name it; return the run that the key names instead, or None."""
        # A key whose run is gone (purged, or lost with a node) is compared before it is replaced.
        stale = ""
        while run.key:
            named = await self._client.run(scripts.CLAIM, [self._keys.key(run.key)], run.run_id, stale, self._ttl)
            if (stale := named.decode()) == run.run_id:
                return None
            winner = await self._get(stale)
            if winner is not None and not winner.purged:
                return winner
        return None
