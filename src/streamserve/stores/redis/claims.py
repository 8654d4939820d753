"""Claims of runs on threads. A thread has one set of them, perhaps on another node than the runs: an entry counts
while its run is live, even if its worker died before it removed the entry."""

from streamserve.stores.base import TERMINAL, RunRecord
from streamserve.stores.redis import scripts
from streamserve.stores.redis.client import Client
from streamserve.stores.redis.keys import Keys

# Milliseconds that a thread's set is kept after its last run came; no live run is that old.
CLAIMS_TTL = 7 * 86_400_000


class Claims:
    """The claims of runs on their threads."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def enter(self, run: RunRecord, alone: bool) -> str | None:
        """Put a stored run behind the other runs of its thread; return the run that has the thread instead, or None.

        Args:
            alone: whether to enter only if the thread has no live run.
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
        """Return the live runs of the thread that came before a run, as RunStore.ahead."""
        if run.thread is None:
            return []
        names = [name.decode() for name in await self._client.do("ZRANGE", self._keys.thread(run.thread), 0, -1)]
        return await self._live(names[: names.index(run.run_id)] if run.run_id in names else names)

    async def leave(self, run: RunRecord) -> None:
        """Remove a run that has ended, unless another worker continues it."""
        if run.thread is not None and not await self._live([run.run_id]):
            await self._client.do("ZREM", self._keys.thread(run.thread), run.run_id)

    async def _live(self, names: list[str]) -> list[str]:
        found = await self._client.fields([self._keys.run(name) for name in names], "status")
        statuses = {name: status.decode() for name, (status,) in zip(names, found, strict=True) if status is not None}
        return [name for name, status in statuses.items() if status not in TERMINAL]
