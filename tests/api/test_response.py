"""The bytes that a reader gets: headers, keep-alive, replay and live blocks."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from langchain_core.runnables import RunnableGenerator

from streamserve.api.reader import EAGER, MAX_INTERVAL, Reader
from streamserve.api.services import services_in
from streamserve.settings import Settings
from tests.fakes import Gate
from tests.runs.support import LIMIT, GatedBench, app_of, blocks_of, client_of, ended, streaming, writes_of
from tests.runs.support import client_of_bench as client_of_bench  # a fixture

pytestmark = pytest.mark.filterwarnings("ignore:astream_log is deprecated")

STREAMS = ("stream", "stream_log", "stream_events")


class Bench(GatedBench):
    """A served chain that yields five numbers, each when the gate opens."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.app = app_of({"count": RunnableGenerator(self.count)}, **settings)

    async def count(self, inputs: Any) -> Any:
        async for _ in inputs:
            pass
        for number in range(5):
            await self.gate.await_()
            yield str(number)


@pytest.fixture
def bench() -> Bench:
    return Bench(keepalive=60)


def test_a_whole_stream_byte_for_byte(bench: Bench, client: httpx.Client) -> None:
    bench.gate.open(5)
    response = client.post("/count/stream", json={"input": "x"})
    run_id = response.headers["Run-Id"]
    blocks = b"".join(b'id: %d\nevent: data\ndata: "%d"\n\n' % (number + 2, number) for number in range(5))
    assert response.content == (
        b': \nretry: 1000\nid: 1\nevent: metadata\ndata: {"run_id":"%s"}\n\n' % run_id.encode()
        + blocks
        + b"id: 7\nevent: end\ndata:\n\n"
    )


@pytest.mark.parametrize("endpoint", STREAMS)
def test_every_stream_has_the_headers(bench: Bench, client: httpx.Client, endpoint: str) -> None:
    bench.gate.open(5)
    headers = client.post(f"/count/{endpoint}", json={"input": "x"}).headers
    run_id = headers["Run-Id"]
    assert re.fullmatch(r"[0-9a-f-]{36}", run_id)
    assert headers["Content-Location"] == f"/runs/{run_id}"
    assert headers["Location"] == f"/runs/{run_id}/stream"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Accel-Buffering"] == "no"
    assert headers["Content-Type"].startswith("text/event-stream")
    assert "Content-Length" not in headers
    assert "Run-Replay-From" not in headers


def test_metadata_comes_before_the_first_token(client: httpx.Client) -> None:
    with streaming(client, "/count/stream") as reader:
        assert b"event: metadata" in reader.next()


@pytest.mark.parametrize("endpoint", STREAMS[1:])
def test_logs_and_events_have_no_metadata_block(bench: Bench, client: httpx.Client, endpoint: str) -> None:
    bench.gate.open(5)
    with streaming(client, f"/count/{endpoint}") as reader:
        blocks = reader.rest()
    assert not any(b"event: metadata" in block for block in blocks)
    assert [int(block.split()[1]) for block in blocks] == list(range(1, len(blocks) + 1))
    assert b"event: end" in blocks[-1]


def test_a_comment_follows_the_headers_at_once(client: httpx.Client) -> None:
    with client.stream("POST", "/count/stream_log", json={"input": "x"}) as response:
        assert next(response.iter_raw()).startswith(b": \n")


@pytest.mark.parametrize("keepalive", [0.05])
def test_a_silent_stream_gets_comments_and_no_blank_lines(keepalive: float) -> None:
    bench = Bench(keepalive=keepalive)
    with client_of(bench.app) as client, client.stream("POST", "/count/stream", json={"input": "x"}) as response:
        parts, got = response.iter_raw(), b""
        while got.count(b": \n") < 4:
            got += next(parts)
        bench.gate.open(5)
        got += b"".join(parts)
    comments = re.findall(rb"(?:\A|\n): \n(.?)", got)
    assert len(comments) >= 2
    assert b": \n\n" not in got, "a comment before a blank line dispatches an event in the stock client"


def test_a_late_reader_gets_the_same_bytes(bench: Bench, client: httpx.Client) -> None:
    with streaming(client, "/count/stream") as first:
        start = [first.next()]
        bench.gate.open(2)
        start += [first.next(), first.next()]
        with streaming(client, f"/runs/{first.run_id}/stream", method="GET") as second:
            replayed = [second.next() for _ in range(3)]
            bench.gate.open(3)
            assert [*replayed, *second.rest()] == [*start, *first.rest()]


def test_many_readers_get_identical_bytes(bench: Bench, client: httpx.Client) -> None:
    got: list[list[bytes]] = []
    with streaming(client, "/count/stream") as first:
        bench.gate.open(1)
        path = f"/runs/{first.run_id}/stream"
        readers = [threading.Thread(target=lambda: got.append(blocks_of(client, path))) for _ in range(6)]
        for reader in readers:
            reader.start()
        bench.gate.open(4)
        for reader in readers:
            reader.join(LIMIT)
        whole = first.rest()
    assert got == [whole] * 6


@pytest.mark.parametrize("cursor", range(7))
def test_every_cursor_gets_exactly_the_blocks_after_it(bench: Bench, client: httpx.Client, cursor: int) -> None:
    bench.gate.open(5)
    with streaming(client, "/count/stream") as first:
        whole = first.rest()
    path = f"/runs/{first.run_id}/stream"
    assert blocks_of(client, f"{path}?after={cursor}") == whole[cursor:]
    with streaming(client, path, method="GET", Last_Event_ID=str(cursor)) as reader:
        assert reader.response.headers["Run-Replay-From"] == str(cursor)
        assert reader.rest() == whole[cursor:]


class PausingStore:
    """A store whose next read stops on demand, to force the step from replay to live blocks."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._pause = ""
        self.paused = threading.Event()
        self._resumed = Gate()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def pause_next_read(self, side: str) -> None:
        """Stop the next read "before" or "after" it reads the store."""
        self._pause = side

    def resume(self) -> None:
        """Resume the stopped read."""
        self._resumed.open()

    async def read(self, run_id: str, after: int, limit: int) -> Any:
        if self._pause == "before":
            await self._stop()
        found = await self._store.read(run_id, after, limit)
        if self._pause == "after":
            await self._stop()
        return found

    async def _stop(self) -> None:
        self._pause = ""
        self.paused.set()
        await self._resumed.await_()


def read_in_thread(client: httpx.Client, path: str) -> tuple[threading.Thread, list[bytes]]:
    """Read a stream to its end in an OS thread."""
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.extend(blocks_of(client, path)))
    thread.start()
    return thread, got


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("late", [1, 3], ids=["live", "ended"])
def test_blocks_between_replay_and_live_are_sent_once(side: str, late: int) -> None:
    bench = Bench(keepalive=60)
    store = services_in(bench.app).runs.store = PausingStore(services_in(bench.app).runs.store)
    with client_of(bench.app) as client, streaming(client, "/count/stream") as first:
        bench.gate.open(2)
        whole = [first.next() for _ in range(3)]
        store.pause_next_read(side)
        second, got = read_in_thread(client, f"/runs/{first.run_id}/stream")
        assert store.paused.wait(LIMIT)
        # Stored and announced while the second reader is between a read and its wait for more blocks.
        bench.gate.open(late)
        whole += [first.next() for _ in range(late)]
        if late == 3:
            whole += first.rest()
        store.resume()
        bench.gate.open(3 - late)
        whole += first.rest()
        second.join(LIMIT)
    assert got == whole
    assert len(got) == 7


def test_many_small_blocks_go_out_in_few_writes() -> None:
    async def burst(inputs: Any) -> Any:
        async for _ in inputs:
            pass
        for number in range(500):
            yield number

    app = app_of({"burst": RunnableGenerator(burst)})
    with client_of(app) as client:
        run_id = client.post("/burst/runs", json={"input": "x"}).json()["run_id"]
        ended(client, run_id)
    writes = writes_of(services_in(app).runs, run_id)
    assert b"".join(writes).count(b"\n\n") == 502
    assert len(writes) <= 4


def test_a_reader_slower_than_the_retention_gets_an_error(bench: Bench) -> None:
    store = services_in(bench.app).runs.store = PausingStore(services_in(bench.app).runs.store)
    with client_of(bench.app) as client:
        bench.gate.open(5)
        with streaming(client, "/count/stream") as first:
            first.rest()
        store.pause_next_read("before")
        slow, got = read_in_thread(client, f"/runs/{first.run_id}/stream")
        assert store.paused.wait(LIMIT)
        assert client.delete(f"/runs/{first.run_id}").status_code == 204
        store.resume()
        slow.join(LIMIT)
    assert b'"code":"run_expired"' in got[-1]


def test_a_reader_that_leaves_is_not_logged_as_an_error(
    bench: Bench, client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with streaming(client, "/count/stream", Run_On_Disconnect="continue") as reader:
        reader.next()
        run_id = reader.run_id
    bench.gate.open(5)
    assert client.get(f"/runs/{run_id}/output?wait={LIMIT}").json()["output"] == "01234"
    assert [record for record in caplog.records if record.levelname in ("ERROR", "WARNING")] == []


async def writes_while_it_runs(interval: float) -> list[bytes]:
    """Return the writes to the server for a chain that yields to the event loop after each of 100 numbers."""

    async def count(inputs: Any) -> Any:
        async for _ in inputs:
            pass
        for number in range(100):
            await asyncio.sleep(0)
            yield number

    app = app_of({"count": RunnableGenerator(count)}, write_interval=interval)
    writes: list[bytes] = []
    unsent = [{"type": "http.request", "body": b'{"input": 1}', "more_body": False}]

    async def receive() -> Any:
        return unsent.pop() if unsent else await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        writes.append(message.get("body", b""))

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"content-length", b"12")]
    scope = {"type": "http", "method": "POST", "path": "/count/stream", "query_string": b""}
    scope |= {"headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "scheme": "http"}
    async with app.router.lifespan_context(app), asyncio.timeout(LIMIT):
        await app(scope, receive, send)
    return writes


async def test_blocks_within_one_interval_are_sent_in_one_write() -> None:
    single, together = await writes_while_it_runs(0), await writes_while_it_runs(0.05)
    assert b"".join(single).count(b"event: data") == b"".join(together).count(b"event: data") == 100
    assert max(write.count(b"event: data") for write in single) <= 2
    assert len(together) < len(single) / 3
    assert max(write.count(b"event: data") for write in together[:EAGER]) <= 2


class Clock:
    """The event loop's clock, which only the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now = 0.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self._now)

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@contextlib.asynccontextmanager
async def woken_late(clock: Clock, interval: float) -> AsyncIterator[Reader]:
    """Yield a reader past its first writes, woken late by a blocked event loop."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    reader = Reader(task, Settings(write_interval=interval, _env_file=None))
    try:
        for _ in range(EAGER):
            await reader.pause()
        loop.call_soon(reader.wake)
        loop.call_soon(clock.move, 2 * MAX_INTERVAL)
        assert await reader.wait()
        yield reader
    finally:
        reader.close()


async def sent_nowhere(_message: Any) -> None:
    pass


async def test_writes_are_further_apart_while_the_loop_is_late(clock: Clock) -> None:
    async with woken_late(clock, interval=MAX_INTERVAL / 50) as reader:
        await reader.send(sent_nowhere, b"block")
        pause = asyncio.create_task(reader.pause())
        for seconds, is_over in ((0.0, False), (0.9 * MAX_INTERVAL, False), (0.2 * MAX_INTERVAL, True)):
            clock.move(seconds)
            for _ in range(3):
                await asyncio.sleep(0)
            assert pause.done() == is_over


async def test_without_an_interval_a_write_never_waits(clock: Clock) -> None:
    async with woken_late(clock, interval=0) as reader:
        await reader.send(sent_nowhere, b"block")
        with pytest.raises(StopIteration):
            reader.pause().send(None)  # ends without a wait
