"""The checkpoints of graphs' threads, in LangGraph's own savers."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver

from streamserve.graphs.graph import Graph, with_checkpointer
from streamserve.graphs.memory_saver import MemorySaver
from streamserve.graphs.thread_keys import ThreadKeys
from streamserve.settings import Settings
from streamserve.stores import StoreDown
from streamserve.stores.pragmas import set_in_file
from streamserve.stores.private_file import make_private

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import DictRow

logger = logging.getLogger(__name__)

Saver = BaseCheckpointSaver[Any]

# The processes that share a kind of place: 0 this process, 1 the processes of this machine, 2 all.
_REACH = {"memory": 0, "sqlite": 1, "postgres": 2, "postgresql": 2}
_STORE_REACH = {"memory": 0, "sqlite": 1}
_SHARED = 2

# Seconds to wait for another process that migrates the same database, or writes to it.
MIGRATIONS_LIMIT = 60.0
BUSY_LIMIT = 15.0
POLL_INTERVAL = 0.1
# Seconds for a health check of the database; the probes of orchestrators do not wait much longer.
CHECK_LIMIT = 2.0
# A thread that belongs to no principal.
_PROBE: RunnableConfig = {"configurable": {"thread_id": "readyz", "checkpoint_ns": ""}}
# Seconds for a connection to Postgres. The saver takes one connection at a time, so a run may wait for several.
CONNECTION_LIMIT = 5.0
# An arbitrary number, the same in all replicas.
MIGRATIONS_LOCK = 7_305_227_041


class CheckpointsDown(StoreDown):
    """The store of the checkpoints is unreachable."""

    def __init__(self) -> None:
        super().__init__("The store of the conversations cannot be reached")


class Checkpoints:
    """The checkpoints of all graphs of an application.

    Graphs are bound before the event loop starts; the saver needs the loop and is opened by `opened`.

    Args:
        settings: the settings; if `checkpoints` is unset, the place follows from the runs' store.

    Raises:
        ValueError: The kind of place is unknown.
    """

    def __init__(self, settings: Settings) -> None:
        self.url = settings.checkpoints or _default_url(settings.store)
        self._store = urlsplit(settings.store or "memory:").scheme
        self._kind = urlsplit(self.url).scheme
        if self.url and not _is_known(self.url):
            raise ValueError("STREAMSERVE_CHECKPOINTS: memory:, sqlite:///PATH or postgres://...")
        self._idle: Saver = MemorySaver() if self._kind == "memory" else ClosedSaver()
        self._saver_now: Saver = self._idle
        self._graphs: list[Graph] = []

    def bind(self, graph: Graph) -> Graph:
        """Return the graph as `with_keys` does, with these checkpoints; errors are those of `adopt`."""
        bound = with_keys(graph)
        self.adopt(bound)
        return bound

    def adopt(self, graph: Graph) -> None:
        """Give a graph of `with_keys` these checkpoints, unless it has its own saver.

        Raises:
            ValueError: The replicas share their runs, and no place for checkpoints is set.
        """
        keys = graph.checkpointer
        if isinstance(keys, ThreadKeys) and isinstance(keys.saver, ClosedSaver) and not self._has(graph):
            self._require_place(graph)
            self._graphs.append(graph)
            keys.saver = self._saver_now

    def _has(self, graph: Graph) -> bool:
        return any(other is graph for other in self._graphs)

    def _use(self, saver: Saver) -> None:
        self._saver_now = saver
        for graph in self._graphs:
            cast(ThreadKeys, graph.checkpointer).saver = saver

    def _require_place(self, graph: Graph) -> None:
        if not self.url:
            raise ValueError(
                f"STREAMSERVE_CHECKPOINTS is not set. The graph {graph.name!r} keeps conversations, and the replicas "
                "that share STREAMSERVE_STORE must share them, too: postgres://... (memory: if they may be lost)"
            )
        if not self._graphs and _REACH[self._kind] < _STORE_REACH.get(self._store, _SHARED):
            logger.warning(
                "STREAMSERVE_CHECKPOINTS=%s is shared by fewer processes than STREAMSERVE_STORE=%s: a conversation "
                "continues only on the machine that started it",
                f"{self._kind}:",
                f"{self._store}:",
            )

    def visible_to(self, graph: Graph) -> str | None:
        """Return the workers that share a graph's checkpoints, among the workers that share its runs.

        Returns:
            "" for all workers, the name of a machine for the workers on it, None for this process alone.
        """
        bound = self._has(graph)
        saver = graph.checkpointer.saver if isinstance(graph.checkpointer, ThreadKeys) else graph.checkpointer
        in_memory = isinstance(saver, InMemorySaver)
        reach = _REACH[self._kind] if bound else _REACH["memory"] if in_memory else _SHARED
        if reach >= _STORE_REACH.get(self._store, _SHARED):
            return ""
        return gethostname() if reach else None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Migrate and open the store of the checkpoints for the graphs inside the `with` block."""
        if self._kind == "memory" or not self._graphs:
            yield
            return
        async with self._saver() as saver:
            self._use(saver)
            try:
                yield
            finally:
                self._use(self._idle)

    async def check(self) -> None:
        """Check that a checkpoint can be read.

        Raises:
            CheckpointsDown: The database does not answer.
        """
        if self._saver_now is self._idle:
            return
        try:
            async with asyncio.timeout(CHECK_LIMIT):
                await self._saver_now.aget_tuple(_PROBE)
        except Exception as error:  # each driver has exceptions of its own
            raise CheckpointsDown() from error

    def _saver(self) -> AbstractAsyncContextManager[Saver]:
        return _sqlite(sqlite_path(self.url)) if self._kind == "sqlite" else _postgres(self.url)


def with_keys(graph: Graph) -> Graph:
    """Return the graph with threads that are separate for each principal, in its own saver if it has one.

    Without one it keeps nothing, until `Checkpoints.adopt` gives it checkpoints.
    """
    own = graph.checkpointer
    if own is None:
        return with_checkpointer(graph, ThreadKeys(ClosedSaver()))
    return with_checkpointer(graph, ThreadKeys(own)) if isinstance(own, BaseCheckpointSaver) else graph


class ClosedSaver(BaseCheckpointSaver[Any]):
    """A saver that refuses reads, because a graph that runs before the store is open would lose its conversation."""

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:  # noqa: ARG002 - LangGraph's name
        raise RuntimeError("The checkpoints are not open: the application's lifespan does not run")


def _is_known(url: str) -> bool:
    kind = urlsplit(url).scheme
    return kind in _REACH and (kind != "sqlite" or url.startswith("sqlite:///"))


def sqlite_path(url: str) -> Path:
    """Return the path of `sqlite:///PATH`; an absolute path makes four slashes, as in SQLAlchemy."""
    return Path(url.removeprefix("sqlite:///"))


def _default_url(store: str) -> str:
    if urlsplit(store or "memory:").scheme == "memory":
        return "memory:"
    if store.startswith("sqlite:///"):
        path = sqlite_path(store)
        return f"sqlite:///{path.with_name(f'{path.stem}.checkpoints{path.suffix}')}"
    return ""


@asynccontextmanager
async def _sqlite(path: Path) -> AsyncIterator[Saver]:
    import aiosqlite
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    make_private(path)
    await asyncio.to_thread(_use_write_ahead_log, path)
    async with aiosqlite.connect(path, timeout=BUSY_LIMIT) as connection:
        saver = AsyncSqliteSaver(connection)
        await saver.setup()
        yield saver


def _use_write_ahead_log(path: Path) -> None:
    # The saver does so too, but fails if another worker does it at the same moment.
    with closing(sqlite3.connect(path, timeout=BUSY_LIMIT)) as connection:
        set_in_file(connection, "journal_mode = WAL", limit=BUSY_LIMIT)


@asynccontextmanager
async def _postgres(url: str) -> AsyncIterator[Saver]:
    try:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
        from psycopg import AsyncConnection
        from psycopg.rows import DictRow, dict_row
        from psycopg_pool import AsyncConnectionPool
    except ImportError as error:
        raise RuntimeError("Checkpoints in Postgres need an extra: pip install 'streamserve[postgres]'") from error
    options: dict[str, Any] = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with await AsyncConnection[DictRow].connect(url, **options) as connection, _migration_lock(connection):
        await AsyncPostgresSaver(connection).setup()
    async with AsyncConnectionPool[AsyncConnection[DictRow]](
        url,
        kwargs=options,
        min_size=1,
        max_size=4,
        timeout=CONNECTION_LIMIT,
        check=AsyncConnectionPool.check_connection,  # so that no run fails after a restart of Postgres
        open=False,
    ) as pool:
        yield AsyncPostgresSaver(pool)


@asynccontextmanager
async def _migration_lock(connection: "psycopg.AsyncConnection[DictRow]") -> AsyncIterator[None]:
    # Not pg_advisory_lock: a session that waits in it holds a snapshot, for which the migrations' CREATE INDEX
    # CONCURRENTLY waits: a deadlock.
    async with asyncio.timeout(MIGRATIONS_LIMIT):
        await _lock(connection)
    try:
        yield
    finally:
        await connection.execute("SELECT pg_advisory_unlock(%s)", [MIGRATIONS_LOCK])


async def _lock(connection: "psycopg.AsyncConnection[DictRow]") -> None:
    while True:
        cursor = await connection.execute("SELECT pg_try_advisory_lock(%s) AS locked", [MIGRATIONS_LOCK])
        if (row := await cursor.fetchone()) and row["locked"]:
            return
        await asyncio.sleep(POLL_INTERVAL)
