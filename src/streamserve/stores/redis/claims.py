"""Who has a thread. Its runs stand in a set of their own, which may be on another node than the runs: an entry counts
as long as its run is live, whoever forgot to take it out."""

from __future__ import annotations

from streamserve.stores.base import TERMINAL, RunRecord
from streamserve.stores.redis import scripts
from streamserve.stores.redis.client import Client
from streamserve.stores.redis.keys import Keys

# What is kept of a thread that no run claims any more, in milliseconds; a live run is never that old.
CLAIMS_TTL = 7 * 86_400_000


class Claims:
    """The claims of runs on their threads.

    Args:
        client: of Redis.
        keys: the names.
    """

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def enter(self, run: RunRecord, alone: bool) -> str | None:
        """Puts a run behind those of its thread; its row is stored already.

        Args:
            run: the run.
            alone: only if no live run is there.

        Returns:
            The run that has the thread instead, or None.
        """
        if run.thread is None:
            return None
        stale: list[str] = []
        while True:
            keys = [self._keys.thread(run.thread)]
            found = await self._client.run(scripts.ENTER, keys, run.run_id, int(alone), CLAIMS_TTL, *stale)
            holder: str = found.decode()
            if not holder or await self._live([holder]):
                return holder or None
            stale = [holder]

    async def ahead(self, run: RunRecord) -> list[str]:
        """As RunStore.ahead."""
        if run.thread is None:
            return []
        names = [name.decode() for name in await self._client.do("ZRANGE", self._keys.thread(run.thread), 0, -1)]
        return await self._live(names[: names.index(run.run_id)] if run.run_id in names else names)

    async def leave(self, run: RunRecord) -> None:
        """Takes out a run that has ended, not one that another worker goes on with."""
        if run.thread is not None and not await self._live([run.run_id]):
            await self._client.do("ZREM", self._keys.thread(run.thread), run.run_id)

    async def _live(self, names: list[str]) -> list[str]:
        if not names:
            return []
        found = await self._client.fields([self._keys.run(name) for name in names], "status")
        return [
            name
            for name, (status,) in zip(names, found, strict=True)
            if status is not None and status.decode() not in TERMINAL
        ]
