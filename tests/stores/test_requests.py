"""A store keeps the request of a live run, so that another worker can resume the run."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from streamserve.stores import Outcome, RunRecord, RunStore
from streamserve.stores.redis import RedisStore
from streamserve.stores.sqlite import SqliteStore
from tests.limits import LIMIT
from tests.stores.servers import shared_redis

LEASE = 1.0
REQUEST = b'{"input":1}'


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the path of a file, or the URL and prefix of a Redis."""
    return str(tmp_path / "runs.sqlite") if request.param == "sqlite" else f"{shared_redis()} {uuid.uuid4().hex}"


@asynccontextmanager
async def worker(place: str) -> AsyncIterator[RunStore]:
    url, _, prefix = place.partition(" ")
    store: RunStore = RedisStore(url, prefix=prefix, lease=LEASE) if prefix else SqliteStore(url, lease=LEASE)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def run() -> RunRecord:
    return RunRecord(str(uuid.uuid4()), "graph", "stream", "somebody", time.time(), request=REQUEST)


async def taken(store: RunStore) -> RunRecord:
    """Wait for the run that the store hands out."""
    async with asyncio.timeout(LIMIT):
        while not (found := await store.take_over_lost()):
            pass
    (record,) = found
    return record


async def test_each_further_attempt_gets_the_request(place: str) -> None:
    async with worker(place) as third:
        async with worker(place) as second:
            async with worker(place) as first:
                stored, _ = await first.acquire(run())
                await first.append(stored.run_id, 1, 1, [b"id: 1\n\n"])
            again = await taken(second)
            assert (again.run_id, again.attempt, again.last_id, again.request) == (stored.run_id, 2, 1, REQUEST)
            assert await second.append(stored.run_id, 2, 2, [b"id: 2\n\n"]) == 3
        once_more = await taken(third)
        assert (once_more.attempt, once_more.last_id, once_more.request) == (3, 2, REQUEST)


@pytest.mark.parametrize("own", [True, False])
async def test_a_cancelled_run_is_not_recovered(place: str, own: bool) -> None:
    async with worker(place) as second:
        async with worker(place) as first:
            stored, _ = await first.acquire(run())
            await (first if own else second).request_cancel(stored.run_id)
        assert (await taken(second)).request is None


async def test_an_ended_run_has_no_request(place: str) -> None:
    async with worker(place) as store:
        stored, _ = await store.acquire(run())
        kept = await store.get(stored.run_id)
        assert kept is not None
        assert kept.request is None
        await store.append(stored.run_id, 1, 1, [b"id: 1\n\n"], Outcome("done"))
        if isinstance(store, RedisStore):
            assert not await store._client.do("EXISTS", store._keys.run(stored.run_id, "request"))
        else:
            assert isinstance(store, SqliteStore)
            row = await store._writer.do(lambda session: session.one("SELECT request FROM runs"))
            assert row == (None,)
