"""Checkpoints: where graphs keep their conversations, through LangGraph's own savers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver

from streamserve.graphs.graph import Graph, with_checkpointer
from streamserve.graphs.thread_keys import ThreadKeys
from streamserve.settings import Settings
from streamserve.stores import StoreDown

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import DictRow

logger = logging.getLogger(__name__)

Saver = BaseCheckpointSaver[Any]

# Who sees what is kept there: 0 this process, 1 the processes of this machine, 2 all.
_REACH = {"memory": 0, "sqlite": 1, "postgres": 2, "postgresql": 2}
_STORE_REACH = {"memory": 0, "sqlite": 1}
_SHARED = 2

# Seconds for another process to end what it does to the same database: its migrations, or a write.
MIGRATIONS_LIMIT = 60.0
BUSY_LIMIT = 15.0
LOOK_AGAIN = 0.1
# Seconds for a look whether the database is there; a probe does not wait much longer.
CHECK_LIMIT = 2.0
_NOBODYS: RunnableConfig = {"configurable": {"thread_id": "readyz", "checkpoint_ns": ""}}
# Seconds until a run fails because Postgres is away. The saver asks for one connection at a time, so these add up.
CONNECTION_LIMIT = 5.0
# Any number, the same in all replicas.
MIGRATIONS_LOCK = 7_305_227_041


class CheckpointsDown(StoreDown):
    """The conversations cannot be read."""

    def __init__(self) -> None:
        super().__init__("The store of the conversations cannot be reached")


class Checkpoints:
    """The checkpoints of all graphs of an application.

    Graphs are bound while the application is made; the saver needs the event loop and comes with `opened`.

    Args:
        settings: `checkpoints` says where; unset: as far as the runs' store reaches.

    Raises:
        ValueError: there is no such kind of place.
    """

    def __init__(self, settings: Settings) -> None:
        self.url = settings.checkpoints or _beside(settings.store)
        self._store = urlsplit(settings.store or "memory:").scheme
        self._kind = urlsplit(self.url).scheme
        if self.url and not _is_known(self.url):
            raise ValueError("STREAMSERVE_CHECKPOINTS: memory:, sqlite:///PATH or postgres://...")
        self._idle: Saver = InMemorySaver() if self._kind == "memory" else NotOpened()
        self._keys = ThreadKeys(self._idle)
        self._graphs: list[Graph] = []

    def bind(self, graph: Graph) -> Graph:
        """The graph with these checkpoints, unless it brought its own; in either case each thread is its principal's.

        Raises:
            ValueError: the replicas share their runs, and nobody said where conversations are kept.
        """
        own = graph.checkpointer
        if own is not None:
            return with_checkpointer(graph, ThreadKeys(own)) if isinstance(own, BaseCheckpointSaver) else graph
        bound = with_checkpointer(graph, self._keys)
        self._require_place(bound)
        self._graphs.append(bound)
        return bound

    def _require_place(self, graph: Graph) -> None:
        if not self.url:
            raise ValueError(
                f"STREAMSERVE_CHECKPOINTS is not set. The graph {graph.name!r} keeps conversations, and the replicas "
                "that share STREAMSERVE_STORE must share them, too: postgres://... (memory: if they may be lost)"
            )
        if not self._graphs and _REACH[self._kind] < _STORE_REACH.get(self._store, _SHARED):
            logger.warning(
                "STREAMSERVE_CHECKPOINTS=%s: does not reach as far as STREAMSERVE_STORE=%s:; a conversation goes on "
                "only where it began",
                self._kind + ":",
                self._store,
            )

    def seen_by(self, graph: Graph) -> str | None:
        """Who of those that know of a run sees the checkpoints of its graph: "" for all, or the name of a machine; None
        for this process alone."""
        own = any(known is graph for known in self._graphs)
        saver = graph.checkpointer.saver if isinstance(graph.checkpointer, ThreadKeys) else graph.checkpointer
        in_memory = isinstance(saver, InMemorySaver)
        reach = _REACH[self._kind] if own else _REACH["memory"] if in_memory else _SHARED
        if reach >= _STORE_REACH.get(self._store, _SHARED):
            return ""
        return gethostname() if reach else None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Opens the place, after its migrations; the graphs use it as long as the block lasts."""
        if self._kind == "memory" or not self._graphs:
            yield
            return
        async with self._saver() as saver:
            self._keys.saver = saver
            try:
                yield
            finally:
                self._keys.saver = self._idle

    async def check(self) -> None:
        """Returns if a conversation can be read now.

        Raises:
            CheckpointsDown: the database does not answer.
        """
        if self._keys.saver is self._idle:
            return
        try:
            async with asyncio.timeout(CHECK_LIMIT):
                await self._keys.saver.aget_tuple(_NOBODYS)
        except Exception as error:  # whatever the driver calls it
            raise CheckpointsDown() from error

    def _saver(self) -> AbstractAsyncContextManager[Saver]:
        return _sqlite(sqlite_path(self.url)) if self._kind == "sqlite" else _postgres(self.url)


class NotOpened(BaseCheckpointSaver[Any]):
    """Stands where a saver will be; a graph that runs now would forget its conversation."""

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:  # noqa: ARG002 - LangGraph's name
        """Refuses.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("The checkpoints are not open: the application's lifespan does not run")


def _is_known(url: str) -> bool:
    kind = urlsplit(url).scheme
    return kind in _REACH and (kind != "sqlite" or url.startswith("sqlite:///"))


def sqlite_path(url: str) -> Path:
    """The file of `sqlite:///PATH`, as SQLAlchemy reads it: an absolute path makes four slashes."""
    return Path(url.removeprefix("sqlite:///"))


def _beside(store: str) -> str:
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

    path.parent.mkdir(parents=True, exist_ok=True)
    async with aiosqlite.connect(path, timeout=BUSY_LIMIT) as connection:
        saver = AsyncSqliteSaver(connection)
        await saver.setup()
        yield saver


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
    async with await AsyncConnection[DictRow].connect(url, **options) as connection, _only_one(connection):
        await AsyncPostgresSaver(connection).setup()
    async with AsyncConnectionPool[AsyncConnection[DictRow]](
        url,
        kwargs=options,
        min_size=1,
        max_size=4,
        timeout=CONNECTION_LIMIT,
        check=AsyncConnectionPool.check_connection,  # so that a restart of Postgres costs no run
        open=False,
    ) as pool:
        yield AsyncPostgresSaver(pool)


@asynccontextmanager
async def _only_one(connection: psycopg.AsyncConnection[DictRow]) -> AsyncIterator[None]:
    # Not pg_advisory_lock: who waits in it holds a snapshot, and the migrations' CREATE INDEX CONCURRENTLY waits for
    # all snapshots: both would wait for ever.
    async with asyncio.timeout(MIGRATIONS_LIMIT):
        await _lock(connection)
    try:
        yield
    finally:
        await connection.execute("SELECT pg_advisory_unlock(%s)", [MIGRATIONS_LOCK])


async def _lock(connection: psycopg.AsyncConnection[DictRow]) -> None:
    while True:
        cursor = await connection.execute("SELECT pg_try_advisory_lock(%s) AS locked", [MIGRATIONS_LOCK])
        if (row := await cursor.fetchone()) and row["locked"]:
            return
        await asyncio.sleep(LOOK_AGAIN)
