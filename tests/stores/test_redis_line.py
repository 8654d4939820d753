"""The line to Redis: replies go to whoever asked, in order, and a line of no use says so to all, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from streamserve.stores import RunRecord, StoreDown
from streamserve.stores.redis import RedisStore
from streamserve.stores.redis.line import Line
from tests.stores.servers import RedisServer, redis_server

LIMIT = 10.0
TIMEOUT = 0.3


class Pretender:
    """The other side of a line, which says what it is told to."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()
        self.writer: asyncio.StreamWriter
        self.gone = asyncio.Event()
        self.lost = 0

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

    def was_lost(self) -> None:
        self.lost += 1


@asynccontextmanager
async def line(timeout: float = LIMIT) -> AsyncIterator[tuple[Line, Pretender]]:
    other = Pretender()
    server = await asyncio.start_server(other.serve, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    made = Line(writer, timeout, other.was_lost)
    try:
        async with asyncio.timeout(LIMIT):
            yield made, other
    finally:
        made.close()
        server.close()


def ask(line: Line, *commands: tuple[str, ...]) -> asyncio.Future[Any]:
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    line.send(commands, answer.set_result)  # a second answer would be an error
    return answer


async def test_replies_go_to_their_calls_in_order_wherever_the_bytes_are_cut() -> None:
    async with line() as (made, other):
        answers = [ask(made, ("A",), ("B",)), ask(made, ("C",)), ask(made, ("D",), ("E",))]
        await other.heard.get()
        for byte in b"+a\r\n:7\r\n*2\r\n$1\r\nc\r\n:1\r\n$-1\r\n$2\r\n\r\n\r\n":
            other.writer.write(bytes([byte]))
            await other.writer.drain()
        assert await asyncio.gather(*answers) == [[b"a", 7], [[b"c", 1]], [None, b"\r\n"]]
        assert other.lost == 0


@pytest.mark.parametrize(
    ("said", "error"),
    [(b"-NOSCRIPT gone\r\n", "NOSCRIPT gone"), (b"nonsense\r\n", "Protocol error"), (b"", "is closed")],
)
async def test_an_error_nonsense_or_an_end_tells_every_call_and_loses_the_line(said: bytes, error: str) -> None:
    async with line() as (made, other):
        answers = [ask(made, ("A",)), ask(made, ("B",))]
        await other.heard.get()
        other.writer.write(said)
        if not said:
            other.writer.close()
        for answer in await asyncio.gather(*answers):
            assert isinstance(answer, StoreDown)
            assert error in str(answer)
        assert other.lost == 1


async def test_a_line_that_is_lost_together_with_its_answer_is_not_taken_for_a_good_one() -> None:
    async with line() as (made, other):
        with pytest.raises(StoreDown, match="closed with its answer"):
            await asyncio.gather(made.ask("A"), _say(other, b"+a\r\n+nobody asked for this\r\n"))
        assert other.lost == 1


async def _say(other: Pretender, said: bytes) -> None:
    await other.heard.get()
    other.writer.write(said)


async def test_no_answer_in_time_loses_the_line_and_a_late_one_is_not_heard() -> None:
    async with line(TIMEOUT) as (made, other):
        first = ask(made, ("A",))
        await _say(other, b"+a\r\n")
        assert await first == [b"a"]
        with pytest.raises(StoreDown, match=r"no answer within 0\.3 s"):
            await made.ask("B")
        assert other.lost == 1
        made.data_received(b"+late\r\n")
        assert other.lost == 1


async def test_what_is_under_way_when_it_is_closed_is_not_answered() -> None:
    async with line() as (made, other):
        answer = ask(made, ("A",))
        await other.heard.get()
        made.close()
        await other.gone.wait()
        assert not answer.done()
        assert other.lost == 0


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.mark.parametrize("command", [("SCRIPT", "FLUSH"), ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")])
async def test_a_redis_that_drops_scripts_or_connections_takes_blocks_again(
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
