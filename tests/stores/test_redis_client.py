"""The client of Redis: how many calls at a time, how often a failed one is tried, and which node has a key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.exceptions import ResponseError

from streamserve.stores import StoreDown
from streamserve.stores.redis.client import Client
from streamserve.stores.redis.connection import cancel, store_errors
from tests.limits import LIMIT
from tests.stores.servers import shared_cluster, shared_redis


@asynccontextmanager
async def opened(url: str, connections: int = 16) -> AsyncIterator[Client]:
    client = Client(url, timeout=LIMIT, connections=connections)
    client.open()
    try:
        async with asyncio.timeout(LIMIT):
            yield client
    finally:
        await client.close()


async def test_a_call_that_finds_no_free_connection_fails_in_time() -> None:
    async with opened(shared_redis(), connections=1) as client:
        for _ in range(2):
            async with client._client():
                client.timeout = 0.01
                with pytest.raises(StoreDown, match="TimeoutError"):
                    await client.do("PING")
            client.timeout = LIMIT
            assert await client.do("PING")


async def test_a_failed_call_is_tried_once() -> None:
    connections: list[int] = []

    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with opened(f"redis://127.0.0.1:{port}/0") as client:
            with pytest.raises(StoreDown):
                await client.do("PING")
            assert connections == [1]
            with pytest.raises(StoreDown):
                await client.connect()
            assert connections == [1, 1]


async def test_no_names_need_no_call() -> None:
    client = Client("redis://127.0.0.1:1/0", timeout=LIMIT)
    assert await client.fields([], "status") == []
    await client.close()  # although it was never opened


async def test_a_single_redis_is_one_node() -> None:
    async with opened(shared_redis()) as client:
        assert client.node_of("key") == ""
        client.refresh_nodes()
        assert client._refreshing is None
        connection = await client.connect()
        await connection.disconnect()


async def test_each_key_of_a_redis_cluster_has_its_node() -> None:
    async with opened(shared_cluster()) as client:
        assert client.node_of("{a}") == ""  # not known yet
        assert await client.fields(["{a}", "{b}", "{c}"], "x", "y") == [[None, None]] * 3
        nodes = {key: client.node_of(key) for key in ("{a}:run", "{b}:run", "{c}:run", "{d}:run")}
        assert all(nodes.values())
        assert len(set(nodes.values())) > 1
        for key, node in nodes.items():
            connection = await client.connect(node)
            await connection.send_command("GET", key)
            assert await connection.read_response() is None  # no MOVED
            await connection.disconnect()
        connection = await client.connect()
        assert connection.is_connected
        await connection.disconnect()
        with pytest.raises(StoreDown, match=r"127\.0\.0\.1:1 is not a node of the cluster any more"):
            await client.connect("127.0.0.1:1")


async def test_nodes_of_a_redis_cluster_are_looked_up_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(shared_cluster()) as client:
        await client.fields(["{a}"], "x")
        began: list[int] = []
        asked, free = asyncio.Event(), asyncio.Event()

        async def initialize(_nodes: object) -> None:
            began.append(1)
            asked.set()
            await free.wait()
            raise ResponseError("no")

        monkeypatch.setattr(type(client._redis.nodes_manager), "initialize", initialize)
        for _ in range(2):
            client.refresh_nodes()
            client.refresh_nodes()
            await asked.wait()
        assert began == [1]
        free.set()
        assert client._refreshing is not None
        await client._refreshing
        free.clear()
        asked.clear()
        client.refresh_nodes()
        await asked.wait()
        assert began == [1, 1]
        under_way = client._refreshing
    assert under_way.cancelled()


async def test_every_error_of_redis_is_a_store_that_is_down() -> None:
    for error, text in (
        (ResponseError("no"), "Redis: no"),
        (OSError(), "Redis: OSError"),
        (TimeoutError(), "TimeoutE"),
    ):
        with pytest.raises(StoreDown, match=text), store_errors():
            raise error
    with pytest.raises(ValueError, match="another"), store_errors():
        raise ValueError("another")


async def test_a_task_that_loses_a_cancellation_is_cancelled_again() -> None:
    lost: list[int] = []

    async def loses_two() -> None:
        while len(lost) < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost.append(1)
        await asyncio.Event().wait()

    task = asyncio.create_task(loses_two())
    await asyncio.sleep(0)
    async with asyncio.timeout(LIMIT):
        await cancel([task])
    assert task.cancelled()
