"""A long run reads the same from every cursor, in every process, before and after the store has packed it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis

from streamserve.settings import Settings
from streamserve.stores import Outcome, RunRecord, RunStore, store_at
from streamserve.stores.sqlite import SqliteStore, compactor
from tests.limits import LIMIT
from tests.stores.servers import redis_server

ROOT = Path(__file__).parents[2]
BLOCKS = 1_500
# 512 bytes on average, so that 256 KiB are some 500 blocks. All differ, and one is larger than a piece of Redis.
SIZES = [(number * 37) % 1_000 + 12 for number in range(BLOCKS)]
LARGE = 700
EXPECTED = [
    (b"%d " % number) * (size // len(b"%d " % number) + 1) + (b"x" * 300_000 if number == LARGE else b"")
    for number, size in enumerate(SIZES)
]
LIMITS = (1, 7, 5_000)


@dataclass
class Place:
    """A place for runs.

    Args:
        url: of the store.
        pack: returns when the store has done to an ended run what it does beside.
    """

    url: str
    pack: Callable[[RunStore], Awaitable[None]]


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RunStore]:
    store = store_at(Settings(store=url, _env_file=None))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture(params=["sqlite", "redis"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    if request.param == "sqlite":
        monkeypatch.setattr(compactor, "MIN_LOG", 0)
        yield Place(f"sqlite:///{tmp_path}/runs.sqlite", _compact)
        return
    with redis_server() as server:

        async def seal(_store: RunStore) -> None:
            while not await asyncio.to_thread(_is_sealed, server.client()):
                pass
            with server.client() as client:
                assert int(client.hlen("streamserve:{run}:pieces")) >= 4  # type: ignore[arg-type]

        yield Place(server.url, seal)


async def _compact(store: RunStore) -> None:
    assert isinstance(store, SqliteStore)
    await store._compact()


def _is_sealed(client: Redis) -> bool:
    with client:
        return bool(client.hexists("streamserve:{run}:run", "sealed"))


async def write(store: RunStore) -> None:
    await store.acquire(RunRecord("run", "chain", "stream", "ann", created_at=1.0))
    for first in range(0, BLOCKS, 50):
        blocks = EXPECTED[first : first + 50]
        await store.append("run", 1, first + 1, blocks, Outcome("done") if first + 50 == BLOCKS else None)


async def read_from(store: RunStore, cursor: int, limit: int) -> list[bytes]:
    """Read all blocks after a cursor, at most `limit` at a time."""
    found: list[bytes] = []
    while True:
        blocks, at_end = await store.read("run", cursor + len(found), limit)
        assert len(blocks) <= limit
        found += blocks
        assert at_end == (cursor + len(found) == BLOCKS)
        if at_end:
            return found
        assert blocks


async def assert_reads_as_written(store: RunStore, step: int = 29) -> None:
    for cursor in {*range(0, BLOCKS + 1, step), BLOCKS}:
        blocks, at_end = await store.read("run", cursor, 3)
        assert list(blocks) == EXPECTED[cursor : cursor + 3][: len(blocks)], cursor
        assert blocks or cursor == BLOCKS, cursor
        assert at_end == (cursor + len(blocks) == BLOCKS), cursor
    for limit in LIMITS:
        for cursor in (0, LARGE - 1, LARGE, LARGE + 1, BLOCKS - 1, BLOCKS):
            assert await read_from(store, cursor, limit) == EXPECTED[cursor:]


async def test_a_long_run_reads_the_same_from_every_cursor(place: Place) -> None:
    async with asyncio.timeout(LIMIT), AsyncExitStack() as stack:
        writer = await stack.enter_async_context(opened(place.url))
        other = await stack.enter_async_context(opened(place.url))
        await write(writer)
        await assert_reads_as_written(other)
        await place.pack(writer)
        late = await stack.enter_async_context(opened(place.url))
        for store in (writer, other):
            await assert_reads_as_written(store)
        await assert_reads_as_written(late, step=1)
        assert await asyncio.to_thread(_read_in_another_process, place.url) == EXPECTED


def _read_in_another_process(url: str) -> list[bytes]:
    command = [sys.executable, "-m", "tests.stores.test_reads", url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=True)
    return [text.encode() for text in json.loads(done.stdout)]


async def _print(url: str) -> None:
    async with opened(url) as store:
        print(json.dumps([block.decode() for block in await read_from(store, 0, 100)]))


if __name__ == "__main__":
    asyncio.run(_print(sys.argv[1]))
