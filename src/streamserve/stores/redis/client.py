"""The client of Redis, single or cluster: bounded, with time limits, and with one error for every failure."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from streamserve.stores.base import StoreDown
from streamserve.stores.redis.scripts import Script

try:
    from redis.asyncio import Redis, RedisCluster
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import NoScriptError

    from streamserve.stores.redis.connection import Part, cancel, store_errors
except ImportError as error:
    raise ModuleNotFoundError(
        "STREAMSERVE_STORE: redis://... needs the extra `redis`: pip install 'streamserve[redis]'", name="redis"
    ) from error

logger = logging.getLogger(__name__)

# Connections of one process: a call takes under a millisecond, so that few serve hundreds of runs.
CONNECTIONS = 16


class Client:
    """Runs scripts and commands. Every method but `open`, `close` and `node_of` may raise StoreDown.

    Args:
        url: redis://, rediss://, redis+cluster:// or rediss+cluster://.
        timeout: seconds that Redis may take for a reply.
        connections: maximum number of connections; further calls wait for a free one.
    """

    def __init__(self, url: str, *, timeout: float, connections: int = CONNECTIONS) -> None:
        scheme, _, rest = url.partition("://")
        self.is_cluster = scheme.endswith("+cluster")
        self.timeout = timeout
        self._url = f"{scheme.removesuffix('+cluster')}://{rest}"
        # The writer repeats what failed, and knows for how long; redis-py's own retries would hide a frozen Redis.
        self._options: dict[str, Any] = {
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "protocol": 2,
        }
        self._free = asyncio.Semaphore(connections)  # redis-py's client of a cluster has no pool that waits
        self._redis: Any = None
        self._refreshing: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Make the client; it connects when it is used."""
        self._redis = (RedisCluster if self.is_cluster else Redis).from_url(self._url, **self._options)

    async def close(self) -> None:
        """Close the connections."""
        if self._refreshing is not None:
            await cancel([self._refreshing])
        if self._redis is not None:
            with store_errors():
                await self._redis.aclose()

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Any]:
        with store_errors():
            async with asyncio.timeout(self.timeout):
                await self._free.acquire()
            try:
                yield self._redis
            finally:
                self._free.release()

    async def run(self, script: Script, keys: Sequence[str], *args: Part) -> Any:
        """Return a script's reply."""
        async with self._client() as redis:
            try:
                return await redis.evalsha(script.sha, len(keys), *keys, *args)
            except NoScriptError:
                return await redis.eval(script.source, len(keys), *keys, *args)

    async def do(self, *command: Part) -> Any:
        """Return a command's reply as redis-py gives it."""
        async with self._client() as redis:
            return await redis.execute_command(*command)

    async def fields(self, names: Iterable[str], *fields: str) -> list[list[bytes | None]]:
        """Return fields of many hashes in one round trip."""
        if not (names := list(names)):
            return []
        async with self._client() as redis:
            pipeline = redis.pipeline(transaction=False)
            for name in names:
                pipeline.hmget(name, fields)
            return list(await pipeline.execute())

    def node_of(self, key: str) -> str:
        """Return the name of the node that has a key; empty without a cluster, or while its nodes are not known."""
        if not self.is_cluster:
            return ""
        found = self._redis.nodes_manager.slots_cache.get(self._redis.keyslot(key))
        return str(found[0].name) if found else ""

    async def connect(self, node: str = "") -> Any:
        """Return a connection of redis-py to a node that belongs to the caller; to any node if none is named."""
        with store_errors():
            # A frozen Redis accepts the connection and does not answer the greeting.
            async with asyncio.timeout(self.timeout):
                place = await self._node(node) if self.is_cluster else self._redis.connection_pool
                # With a time limit of its own, redis-py sends within asyncio.wait_for, which may lose a cancellation.
                options = {**place.connection_kwargs, **self._options, "socket_timeout": None}
                connection = place.connection_class(**options)
                try:
                    await connection.connect()
                except BaseException:
                    await connection.disconnect(nowait=True)
                    raise
                return connection

    async def _node(self, name: str) -> Any:
        await self._redis.initialize()
        node = self._redis.get_node(node_name=name) if name else self._redis.get_random_primary_node()
        if node is None:
            raise StoreDown(f"Redis: {name} is not a node of the cluster any more")
        return node

    def refresh_nodes(self) -> None:
        """Look up the nodes of a cluster again, beside the caller: slots may have moved."""
        if self.is_cluster and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        try:
            with store_errors():
                await asyncio.wait_for(self._redis.nodes_manager.initialize(), self.timeout)
        except StoreDown as error:
            logger.warning("the nodes of the cluster are unknown: %s", error)
