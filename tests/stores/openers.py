"""Open a new SQLite file in several processes while another one begins to write it.

`python -m tests.stores.openers KIND PATH` prints one line per process: `opened`, or the error.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

from streamserve.graphs.checkpoints import Checkpoints
from streamserve.settings import Settings
from streamserve.stores import pragmas
from streamserve.stores.private_file import make_private
from streamserve.stores.sqlite import schema
from streamserve.stores.sqlite.store import SqliteStore
from tests.fakes import echo_graph
from tests.limits import LIMIT

PROCESSES = 6
# Seconds that SQLite itself waits for the runs' file before it says that others use it.
BUSY_TIMEOUT = 0.5
WAITED, OPENED = "waited", "opened"


@asynccontextmanager
async def opened_checkpoints(path: Path) -> AsyncIterator[None]:
    """Open the checkpoints' file as a server does."""
    checkpoints = Checkpoints(Settings(checkpoints=f"sqlite:///{path}", _env_file=None))
    checkpoints.bind(echo_graph())
    async with checkpoints.opened():
        await checkpoints.check()
        yield


@asynccontextmanager
async def opened_store(path: Path) -> AsyncIterator[None]:
    """Open the runs' file as a server does."""
    store = SqliteStore(path)
    await store.open()
    await store.check()
    yield
    await store.close()


KINDS: dict[str, Callable[[Path], AbstractAsyncContextManager[None]]] = {
    "checkpoints": opened_checkpoints,
    "runs": opened_store,
}


async def open_one(kind: str, path: Path, begun: Event, said: Connection) -> None:
    """Open the file after `begun`; say when others used it, and how opening ended."""

    def wait(seconds: float) -> None:
        said.send(WAITED)
        time.sleep(seconds)

    pragmas.sleep = wait
    schema.BUSY_TIMEOUT = BUSY_TIMEOUT
    begun.wait(LIMIT)
    try:
        async with KINDS[kind](path):
            said.send(OPENED)
    except Exception as error:
        said.send(repr(error))


def main(kind: str, name: str) -> None:
    """Open the file in processes that meet a writer first and each other then."""
    path = Path(name)
    make_private(path)
    # A fork, because each new process would import for a second.
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    ends = [context.Pipe(duplex=False) for _ in range(PROCESSES)]
    for _, said in ends:
        context.Process(target=lambda said=said: asyncio.run(open_one(kind, path, begun, said)), daemon=True).start()
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        begun.set()
        words = [heard.recv() for heard, _ in ends]
        writer.execute("COMMIT")
    for (heard, _), word in zip(ends, words, strict=True):
        while word == WAITED:
            word = heard.recv()
        print(word)


if __name__ == "__main__":
    main(*sys.argv[1:])
