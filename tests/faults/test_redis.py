"""A lost reply, a freeze or a restart that empties Redis loses no block and repeats none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from streamserve.runs.writer import Writer
from streamserve.stores import Outcome, StoreDown
from streamserve.stores.redis import RedisStore
from tests.faults.proxy import CLEAN, Fault, Proxy
from tests.faults.server import counting
from tests.limits import LIMIT
from tests.stores.servers import RedisServer, redis_server
from tests.stores.test_redis import a_run, follow, worker

LEASE = 1.0


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


def a_writer(store: RedisStore, patience: float = 10.0) -> Writer:
    return Writer(a_run(), store, patience, lambda _error: None)


async def test_a_redis_killed_and_restarted_empty_gets_the_run_again(server: RedisServer) -> None:
    blocks = [b"%d" % number for number in range(20)]
    async with worker(server) as owner, worker(server) as other, asyncio.timeout(LIMIT):
        await owner.acquire(a_run())
        writer = a_writer(owner)
        readers = [asyncio.create_task(follow(store)) for store in (owner, other)]
        for block in blocks[:10]:
            writer.write(block)
        server.kill()
        await asyncio.to_thread(server.start)
        for block in blocks[10:-1]:
            writer.write(block)
        await writer.finish(blocks[-1], Outcome("done"))
        async with worker(server) as late:
            assert await follow(late) == blocks
        assert await asyncio.gather(*readers) == [blocks] * 2


async def test_a_frozen_redis_is_noticed_and_waiting_runs_resume(server: RedisServer) -> None:
    async with worker(server) as owner, asyncio.timeout(LIMIT):
        await owner.acquire(a_run())
        writer = a_writer(owner)
        writer.write(b"a")
        server.freeze()
        try:
            with pytest.raises(StoreDown):
                await owner.check()
            with pytest.raises(StoreDown):
                await owner.acquire(a_run("another"))
            ending = asyncio.create_task(writer.finish(b"b", Outcome("done")))
        finally:
            server.thaw()
        await ending
        await owner.check()
        assert await follow(owner) == [b"a", b"b"]


async def test_a_reply_lost_after_the_commit_makes_no_duplicate(server: RedisServer) -> None:
    cut = False

    def fault() -> Fault:
        return Fault(0, "reset") if cut else CLEAN

    async with Proxy(server.port, fault) as proxy, worker(server) as other, asyncio.timeout(LIMIT):
        await other.acquire(a_run())
        store = RedisStore(proxy.url.replace("http", "redis"), lease=10.0)
        store._client.open()  # without its tasks: every connection is the append's
        cut = True
        with pytest.raises(StoreDown):
            await store.append("run", 1, 1, [b"a"], Outcome("done"))
        cut = False
        assert await store.append("run", 1, 1, [b"a"], Outcome("done")) == 2
        await store._appends.close()
        await store._client.close()
        assert proxy.struck == {"reset": 1}
        assert await follow(other) == [b"a"]


async def test_the_run_of_a_killed_owner_ends_in_one_run_lost(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMSERVE_STORE", server.url)
    monkeypatch.setenv("STREAMSERVE_LEASE", str(LEASE))
    wish = {"input": {"blocks": 100_000}}
    with counting() as owner, counting() as other:
        url = f"http://127.0.0.1:{other.port}"
        async with asyncio.timeout(2 * LIMIT), httpx.AsyncClient(timeout=LIMIT) as client:
            await client.get(f"{url}/readyz")
            started = await client.post(f"http://127.0.0.1:{owner.port}/count/runs", json=wish)
            body = b""
            async with client.stream("GET", f"{url}/runs/{started.json()['run_id']}/stream") as response:
                pieces = response.aiter_raw()
                while body.count(b"event: data") < 20:
                    body += await anext(pieces)
                owner.kill()
                async with asyncio.timeout(LEASE + 1):
                    async for piece in pieces:
                        body += piece
            again = await client.get(str(response.url))
    assert body.count(b"event: error") == 1
    assert b'"code":"run_lost"' in body
    ids = [int(line[3:]) for line in body.split(b"\n") if line.startswith(b"id:")]
    assert ids == list(range(1, len(ids) + 1))
    assert _blocks(again.content) == _blocks(body)


def _blocks(body: bytes) -> list[bytes]:
    return [line for line in body.split(b"\n") if line and not line.startswith(b":")]
