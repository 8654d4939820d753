"""The connection to Redis, single or cluster: bounded, with time limits, and one error for whatever fails."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

from streamserve.stores.base import StoreDown
from streamserve.stores.redis.scripts import Script

try:
    from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import NoScriptError, RedisClusterException, RedisError

    from streamserve.stores.redis.line import Line, Part
except ImportError as error:
    raise ModuleNotFoundError(
        "STREAMSERVE_STORE: redis://... needs the extra `redis`: pip install 'streamserve[redis]'", name="redis"
    ) from error

logger = logging.getLogger(__name__)

# Connections of one process: an append takes under a millisecond, so that few serve hundreds of runs.
CONNECTIONS = 16
Key = str


class Client:
    """Runs scripts and commands.

    Args:
        url: redis://, rediss://, redis+cluster:// or rediss+cluster://.
        timeout: seconds that Redis may take for an answer; a frozen one is noticed by that.
        connections: at most; who comes while all are busy waits.
    """

    def __init__(self, url: str, *, timeout: float, connections: int = CONNECTIONS) -> None:
        scheme, _, rest = url.partition("://")
        self._cluster = scheme.endswith("+cluster")
        self._url = f"{scheme.removesuffix('+cluster')}://{rest}"
        # The writer repeats what failed, and knows for how long; redis-py's own retries would hide a frozen Redis.
        self._options: dict[str, Any] = {
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "protocol": 2,
        }
        self._timeout = timeout
        self._connections = connections
        # A cluster's client has no pool that waits.
        self._turns = asyncio.Semaphore(connections) if self._cluster else None
        self._redis: Any = None
        self._looking: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Makes the client; it connects when it is used."""
        if self._cluster:
            self._redis = RedisCluster.from_url(self._url, **self._options)
            return
        pool = BlockingConnectionPool.from_url(
            self._url, max_connections=self._connections, timeout=self._timeout, **self._options
        )
        self._redis = Redis.from_pool(pool)

    async def close(self) -> None:
        """Closes the connections."""
        if self._looking is not None:
            await cancel([self._looking])
        if self._redis is not None:
            with _mapped():
                await self._redis.aclose()

    async def run(self, script: Script, keys: Sequence[Key], *args: Part) -> Any:
        """A script's answer.

        Raises:
            StoreDown: Redis is away, too slow, full or read-only.
        """
        with _mapped():
            async with self._turn():
                try:
                    return await self._redis.evalsha(script.sha, len(keys), *keys, *args)
                except NoScriptError:
                    return await self._redis.eval(script.source, len(keys), *keys, *args)

    async def do(self, *command: Part) -> Any:
        """A command's answer as Redis gives it.

        Raises:
            StoreDown: as for `run`.
        """
        with _mapped():
            async with self._turn():
                return await self._redis.execute_command(*command)

    async def fields(self, names: Iterable[Key], *fields: str) -> list[list[bytes | None]]:
        """Fields of many hashes in one question.

        Raises:
            StoreDown: as for `run`.
        """
        with _mapped():
            async with self._turn():
                pipeline = self._redis.pipeline(transaction=False)
                for name in names:
                    pipeline.hmget(name, fields)
                return list(await pipeline.execute())

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._turns is None:
            yield
            return
        await asyncio.wait_for(self._turns.acquire(), self._timeout)
        try:
            yield
        finally:
            self._turns.release()

    @property
    def is_cluster(self) -> bool:
        """Whether the keys are spread over nodes."""
        return self._cluster

    def lane(self, key: Key) -> str:
        """The name of the node that has a key; empty if there is but one, or while nobody knows."""
        if not self._cluster:
            return ""
        found = self._redis.nodes_manager.slots_cache.get(self._redis.keyslot(key))
        return cast(str, found[0].name) if found else ""

    async def connect(self, lane: str, script: Script, on_lost: Callable[[], None]) -> Line:
        """A line of its own to a node, which knows a script.

        Args:
            lane: of the node.
            script: that is about to be run.
            on_lost: see Line.

        Raises:
            StoreDown: as for `run`.
        """
        try:
            return await self._connect(lane, script, on_lost)
        except StoreDown:
            self._look_around_soon()
            raise

    async def _connect(self, lane: str, script: Script, on_lost: Callable[[], None]) -> Line:
        def lost() -> None:
            self._look_around_soon()
            on_lost()

        with _mapped():
            redis = self._node(lane) if lane else Redis.from_url(self._url, **self._unhurried)
            # A frozen Redis takes the connection, and answers no greeting.
            async with asyncio.timeout(self._timeout):
                connection = await redis.connection_pool.get_connection()  # type: ignore[no-untyped-call]
        # redis-py found the address, encrypted and authenticated; it has no public name for what it made.
        writer, connection._reader, connection._writer = connection._writer, None, None
        line = Line(writer, self._timeout, lost)
        try:
            await line.ask("SCRIPT", "LOAD", script.source)
        except BaseException:
            line.close()
            raise
        return line

    def _look_around_soon(self) -> None:
        if self._cluster and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look_around())

    async def _look_around(self) -> None:
        # Slots may have moved.
        try:
            with _mapped():
                await asyncio.wait_for(self._redis.nodes_manager.initialize(), self._timeout)
        except StoreDown as error:
            logger.warning("the nodes of the cluster are not known: %s", error)

    @property
    def _unhurried(self) -> dict[str, Any]:
        # With a time limit of its own, redis-py sends within asyncio.wait_for, which may lose a cancellation.
        return {**self._options, "socket_timeout": None}

    async def listener(self) -> tuple[Redis, Any]:
        """A client of its own and its one connection: any node of a cluster hears what is published on the others."""
        with _mapped():
            async with asyncio.timeout(self._timeout):
                redis = await self._any_node() if self._cluster else Redis.from_url(self._url, **self._unhurried)
                return redis, await redis.connection_pool.get_connection()  # type: ignore[no-untyped-call]

    async def _any_node(self) -> Redis:
        await self._redis.initialize()
        return self._node_client(secrets.choice(self._redis.get_primaries()))

    def _node(self, name: str) -> Redis:
        node = self._redis.get_node(node_name=name)
        if node is None:
            raise RedisConnectionError(f"{name} is no node of the cluster any more")
        return self._node_client(node)

    def _node_client(self, node: Any) -> Redis:
        wanted = ("username", "password", "credential_provider")
        known = {name: node.connection_kwargs[name] for name in wanted if node.connection_kwargs.get(name)}
        if self._url.startswith("rediss"):
            secure = {name: value for name, value in node.connection_kwargs.items() if name.startswith("ssl_")}
            known |= {"ssl": True, **secure}
        return Redis(host=node.host, port=node.port, **known, **self._unhurried)


@contextmanager
def _mapped() -> Iterator[None]:
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    # RuntimeError and AttributeError: a cluster's client that looks for its nodes anew closes the others' connections.
    except (RedisError, RedisClusterException, OSError, RuntimeError, AttributeError) as error:
        _raise_if_cancelled(task, before)
        raise StoreDown(f"Redis: {error or type(error).__name__}") from error
    _raise_if_cancelled(task, before)


def _raise_if_cancelled(task: asyncio.Task[Any] | None, before: int) -> None:
    # redis-py sends within asyncio.wait_for, which until Python 3.12 loses a cancellation that comes with the result.
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


async def cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Ends tasks; redis-py sometimes turns a cancellation into an error of its own, so it is repeated."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.1)
