"""Tests that the SDK resumes or raises for every end of a connection, and never takes a short answer for the whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from streamserve_sdk import (
    ConnectFailed,
    ConnectionBroken,
    ConnectionTimeout,
    RequestRejected,
    RetryPolicy,
    RunLost,
    StreamServeError,
    StreamTruncated,
)

from tests.faults.proxy import CLEAN, Fault, Kind, Proxy, sequence
from tests.faults.readers import remote
from tests.faults.server import KEEPALIVE, CountingServer, counting
from tests.limits import LIMIT

FAST = RetryPolicy(budget=3, first=0.01, longest=0.02)
ONE_SHOT = RetryPolicy(budget=0)
# About 3 kB on the wire: the head has some 500 bytes.
WISH = {"blocks": 60}
WHOLE = list(range(60))
MIDDLE = 1500
ENDLESS = {"blocks": 1_000_000}

Reading = Callable[..., Awaitable[list[int]]]
Take = Callable[[int], None]


async def by_astream(url: str, wish: dict[str, Any], take: Take, **options: Any) -> None:
    async with remote(url, **options) as client:
        async for chunk in client.astream(wish):
            take(int(chunk))


async def by_stream(url: str, wish: dict[str, Any], take: Take, **options: Any) -> None:
    def read() -> None:
        with remote(url, **options) as client:
            for chunk in client.stream(wish):
                take(int(chunk))

    await asyncio.to_thread(read)


def assert_short(numbers: list[int], error: StreamServeError) -> None:
    """Assert that an error names the last block that came before it."""
    # Block 1 is `metadata`, so number n is in block n + 2.
    assert numbers == list(range(len(numbers)))
    assert error.last_id == len(numbers) + 1 or (error.last_id, numbers) == (0, [])
    assert (error.run_id is not None) or error.last_id == 0


@pytest.fixture(params=[by_stream, by_astream], ids=["sync", "async"])
def read(request: pytest.FixtureRequest) -> Reading:
    """Return a reader of a count through the SDK; `into` has the numbers before an error."""

    async def read(url: str, wish: dict[str, Any] = WISH, into: list[int] | None = None, **options: Any) -> list[int]:
        numbers = [] if into is None else into
        async with asyncio.timeout(LIMIT):
            await request.param(url, wish, numbers.append, **{"retry": FAST, **options})
        return numbers

    return read


@pytest.mark.parametrize("kind", ["reset", "close", "end"])
async def test_a_cut_stream_resumes(kind: Kind, read: Reading, server: CountingServer) -> None:
    async with Proxy(server.port, sequence(Fault(MIDDLE, kind))) as proxy:
        assert await read(proxy.url) == WHOLE
    assert proxy.struck == {kind: 1}


@pytest.mark.parametrize("kind", ["reset", "close", "end"])
@pytest.mark.parametrize("after", [0, 1, 300])
async def test_a_stream_cut_before_its_first_block_resumes(
    kind: Kind, after: int, read: Reading, server: CountingServer
) -> None:
    async with Proxy(server.port, sequence(*[Fault(after, kind)] * 3)) as proxy:
        assert await read(proxy.url) == WHOLE
    assert proxy.struck == {kind: 3}


@pytest.mark.parametrize(
    ("kind", "error"),
    [("reset", ConnectionBroken), ("close", ConnectionBroken), ("end", StreamTruncated)],
)
async def test_a_stream_that_stays_cut_raises_and_says_where(
    kind: Kind, error: type[StreamServeError], read: Reading, server: CountingServer
) -> None:
    numbers: list[int] = []
    async with Proxy(server.port, sequence(Fault(MIDDLE, kind), then=Fault(10, kind))) as proxy:
        with pytest.raises(error) as caught:
            await read(proxy.url, into=numbers)
    assert_short(numbers, caught.value)


@pytest.mark.parametrize("kind", ["reset", "close", "end"])
async def test_a_stream_without_retries_is_whole_or_raises(kind: Kind, server: CountingServer) -> None:
    whole = 0
    for after in range(0, 2000, 37):
        numbers: list[int] = []
        async with Proxy(server.port, lambda after=after: Fault(after, kind)) as proxy:
            try:
                await by_astream(proxy.url, {"blocks": 20}, numbers.append, retry=ONE_SHOT)
            except StreamServeError as error:
                assert_short(numbers, error)
            else:
                assert numbers == WHOLE[:20]
                whole += 1
    assert 0 < whole < len(range(0, 2000, 37))


async def test_a_half_open_connection_is_left_after_three_keepalives(read: Reading, server: CountingServer) -> None:
    async with Proxy(server.port, sequence(Fault(MIDDLE, "silence"))) as proxy:
        assert await read(proxy.url) == WHOLE
    assert proxy.connections >= 2


async def test_connections_that_all_go_silent_raise(read: Reading, server: CountingServer) -> None:
    numbers: list[int] = []
    async with Proxy(server.port, sequence(Fault(MIDDLE, "silence"), then=Fault(0, "silence"))) as proxy:
        with pytest.raises(ConnectionTimeout) as caught:
            await read(proxy.url, into=numbers, retry=RetryPolicy(budget=1, first=0.01), keepalive=0.1)
    assert_short(numbers, caught.value)


async def test_a_slow_model_is_not_a_dead_connection(read: Reading, server: CountingServer) -> None:
    async with Proxy(server.port, lambda: CLEAN) as proxy:
        assert await read(proxy.url, {**WISH, "rest": 10 * KEEPALIVE}, keepalive=0.5) == WHOLE
    assert proxy.connections == 1


@pytest.mark.parametrize("lump", [700, 1 << 30])
async def test_a_buffering_proxy_delays_but_loses_nothing(lump: int, read: Reading, server: CountingServer) -> None:
    async with Proxy(server.port, lambda: Fault(lump=lump)) as proxy:
        assert await read(proxy.url) == WHOLE


async def test_a_buffering_proxy_that_cuts_resumes(read: Reading, server: CountingServer) -> None:
    async with Proxy(server.port, sequence(Fault(MIDDLE, "reset", lump=700))) as proxy:
        assert await read(proxy.url) == WHOLE
    assert proxy.struck == {"reset": 1}


async def test_a_buffer_slower_than_the_watchdog_is_asked_again(read: Reading, server: CountingServer) -> None:
    wish = {**WISH, "rest": 5 * KEEPALIVE}
    async with Proxy(server.port, sequence(Fault(MIDDLE), then=Fault(lump=1 << 30))) as proxy:
        assert await read(proxy.url, wish) == WHOLE


@pytest.mark.parametrize("status", [502, 503])
async def test_a_proxy_without_its_server_now_and_then_is_asked_again(
    status: int, read: Reading, server: CountingServer
) -> None:
    refused, cut = Fault(status=status), Fault(MIDDLE, "reset")
    async with Proxy(server.port, sequence(refused, refused, cut, refused, refused)) as proxy:
        assert await read(proxy.url) == WHOLE
    assert proxy.struck == {str(status): 4, "reset": 1}


@pytest.mark.parametrize("status", [502, 503])
async def test_a_proxy_that_lost_its_server_for_good_raises(status: int, read: Reading, server: CountingServer) -> None:
    numbers: list[int] = []
    async with Proxy(server.port, sequence(Fault(MIDDLE, "end"), then=Fault(status=status))) as proxy:
        with pytest.raises(RequestRejected, match=str(status)) as caught:
            await read(proxy.url, into=numbers)
    assert_short(numbers, caught.value)


class Watched(list[int]):
    """A list of numbers with an event, set when it has `enough` of them."""

    def __init__(self, enough: int) -> None:
        super().__init__()
        self.enough = asyncio.Event()
        self._count = enough
        self._loop = asyncio.get_running_loop()

    def append(self, number: int) -> None:
        super().append(number)
        if len(self) == self._count:
            self._loop.call_soon_threadsafe(self.enough.set)


async def test_a_server_killed_for_good_raises_and_says_where(read: Reading) -> None:
    numbers = Watched(100)
    with counting() as doomed:
        reading = asyncio.create_task(read(f"http://127.0.0.1:{doomed.port}", ENDLESS, numbers))
        async with asyncio.timeout(LIMIT):
            await numbers.enough.wait()
        doomed.kill()
        with pytest.raises(ConnectFailed) as caught:
            await reading
    assert_short(numbers, caught.value)
    assert len(numbers) >= 100


async def test_a_server_back_without_the_run_raises_run_lost(read: Reading, server: CountingServer) -> None:
    numbers: list[int] = []
    with counting() as doomed:

        def replace_server() -> Fault:
            if proxy.connections > 1:
                proxy.target = server.port
            return Fault(MIDDLE)

        async with Proxy(doomed.port, replace_server) as proxy:
            with pytest.raises(RunLost) as caught:
                await read(proxy.url, into=numbers)
    assert_short(numbers, caught.value)
    assert numbers
