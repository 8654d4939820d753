"""The connection to Redis: every reply goes to its call, in order, and a lost connection fails all of its calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Connection as RedisConnection

from streamserve.stores import RunRecord, StoreDown
from streamserve.stores.redis import RedisStore
from streamserve.stores.redis.connection import Connection
from tests.limits import LIMIT
from tests.stores.servers import RedisServer, redis_server

TIMEOUT = 0.3


class Pretender:
    """The other side of a connection, which says what the test tells it to."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()
        self.writer: asyncio.StreamWriter
        self.gone = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        try:
            while data := await reader.read(65536):
                self.heard.put_nowait(data)
        except ConnectionResetError:
            pass
        finally:
            writer.close()
            self.gone.set()


@asynccontextmanager
async def connected(timeout: float = LIMIT) -> AsyncIterator[tuple[Connection, Pretender]]:
    other = Pretender()
    server = await asyncio.start_server(other.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    raw = RedisConnection(host=host, port=port, protocol=2, driver_info=None, socket_timeout=None)
    await raw.connect()
    made = Connection(raw, timeout)
    try:
        async with asyncio.timeout(LIMIT):
            yield made, other
    finally:
        await made.close()
        server.close()


def ask(connection: Connection, *commands: tuple[str, ...]) -> asyncio.Task[list[Any]]:
    return asyncio.create_task(connection.call(commands))


async def test_replies_go_to_their_calls_wherever_the_bytes_are_cut() -> None:
    async with connected() as (made, other):
        answers = [ask(made, ("A",), ("B",)), ask(made, ("C",)), ask(made, ("D",), ("E",))]
        await other.heard.get()
        for byte in b"+a\r\n:7\r\n*2\r\n$1\r\nc\r\n:1\r\n$-1\r\n$2\r\n\r\n\r\n":
            other.writer.write(bytes([byte]))
            await other.writer.drain()
        assert await asyncio.gather(*answers) == [[b"a", 7], [[b"c", 1]], [None, b"\r\n"]]
        assert await made.is_usable()


@pytest.mark.parametrize(
    ("said", "error"),
    [(b"-NOSCRIPT gone\r\n", "gone"), (b"nonsense\r\n", "Protocol error"), (b"", "closed")],
)
async def test_an_error_or_an_end_fails_every_call_and_the_connection(said: bytes, error: str) -> None:
    async with connected() as (made, other):
        answers = [ask(made, ("A",)), ask(made, ("B",))]
        await other.heard.get()
        other.writer.write(said)
        if not said:
            other.writer.close()
        for answer in await asyncio.gather(*answers, return_exceptions=True):
            assert isinstance(answer, StoreDown)
            assert error in str(answer)
        assert not await made.is_usable()
        with pytest.raises(StoreDown):
            await made.call([("C",)])


async def test_a_connection_with_an_unexpected_reply_is_not_used_again() -> None:
    async with connected() as (made, other):
        await asyncio.gather(made.call([("A",)]), _say(other, b"+a\r\n+nobody asked for this\r\n"))
        assert not await made.is_usable()


async def _say(other: Pretender, said: bytes) -> None:
    await other.heard.get()
    other.writer.write(said)


async def test_no_reply_in_time_loses_the_connection() -> None:
    async with connected(TIMEOUT) as (made, other):
        first = ask(made, ("A",))
        await _say(other, b"+a\r\n")
        assert await first == [b"a"]
        with pytest.raises(StoreDown, match=r"no answer within 0\.3 s"):
            await made.call([("B",)])
        assert not await made.is_usable()
        other.writer.write(b"+late\r\n")
        with pytest.raises(StoreDown):
            await made.call([("C",)])


async def test_a_cancelled_call_leaves_no_reply_for_the_next_one() -> None:
    async with connected() as (made, other):
        calls = [ask(made, ("A",)), ask(made, ("B",))]
        await other.heard.get()
        calls[1].cancel()
        await other.gone.wait()
        first, second = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(first, StoreDown)
        assert isinstance(second, asyncio.CancelledError)
        assert not await made.is_usable()


async def test_appends_under_way_when_the_store_closes_get_no_answer(server: RedisServer) -> None:
    store = RedisStore(server.url)
    await store.open()
    await store.acquire(RunRecord("run", "chain", "stream", "ann", created_at=1.0))
    server.freeze()
    appending = asyncio.create_task(store.append("run", 1, 1, [b"1"]))
    async with asyncio.timeout(LIMIT):
        await store.close()
    assert not appending.done()
    appending.cancel()
    server.thaw()


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.mark.parametrize("command", [("SCRIPT", "FLUSH"), ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")])
async def test_a_redis_that_drops_scripts_or_connections_is_used_again(
    server: RedisServer, command: tuple[str, ...]
) -> None:
    store = RedisStore(server.url)
    await store.open()
    try:
        await store.acquire(RunRecord("run", "chain", "stream", "ann", created_at=1.0))
        assert await store.append("run", 1, 1, [b"1"]) == 2
        with server.client() as client:
            client.execute_command(*command)
        async with asyncio.timeout(LIMIT):
            assert await _appended(store) == 3
        assert (await store.read("run", 0, 10)).blocks == [b"1", b"2"]
    finally:
        await store.close()


async def _appended(store: RedisStore) -> int:
    while True:
        try:
            return await store.append("run", 1, 2, [b"2"])
        except StoreDown:
            await asyncio.sleep(0)


async def test_a_connection_with_a_call_under_way_is_usable() -> None:
    async with connected() as (made, other):
        assert await made.is_usable()
        first, second = ask(made, ("A",)), ask(made, ("B",))
        await other.heard.get()
        other.writer.write(b"+a\r\n+b")  # the second reply is not whole yet
        assert await first == [b"a"]
        assert await made.is_usable()
        other.writer.write(b"\r\n")
        assert await second == [b"b"]
        assert await made.is_usable()


async def test_a_call_in_time_leaves_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(123.0) as (made, other):
        loop = asyncio.get_running_loop()
        timers: list[asyncio.TimerHandle] = []
        call_later = loop.call_later

        def kept(delay: float, *args: Any) -> asyncio.TimerHandle:
            timer = call_later(delay, *args)
            if delay == 123.0:
                timers.append(timer)
            return timer

        monkeypatch.setattr(loop, "call_later", kept)
        await asyncio.gather(made.call([("A",)]), _say(other, b"+a\r\n"))
        assert [timer.cancelled() for timer in timers] == [True]


async def test_no_ping_comes_between_calls() -> None:
    async with connected() as (made, other):
        made._connection.health_check_interval, made._connection.next_health_check = 1, 0
        answer = ask(made, ("A",))
        assert await other.heard.get() == b"*1\r\n$1\r\nA\r\n"
        other.writer.write(b"+a\r\n")
        assert await answer == [b"a"]
