"""The bounds of a run, its readers and its time."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain_core.runnables import RunnableGenerator

from streamserve import Chain
from streamserve.api.reader import Reader
from streamserve.api.services import services_in
from tests.fakes import Gate
from tests.runs.support import LIMIT, app_of, client_of, ended, error_of, streaming, writes_of


class Bench:
    """Endless chains, and one that waits for the gate."""

    def __init__(self, **settings: Any) -> None:
        self.gate = Gate()
        self.count = 0
        self.stopped = threading.Event()
        endless = RunnableGenerator(self.endless)
        chains = {"endless": endless, "gated": RunnableGenerator(self.gated), "large": RunnableGenerator(self.large)}
        chains["timed"] = Chain(runnable=RunnableGenerator(self.gated), input_type=Any, output_type=Any, timeout=0.1)
        self.app = app_of(chains, **settings)

    async def endless(self, inputs: AsyncIterator[Any]) -> AsyncIterator[int]:
        async for _ in inputs:
            pass
        try:
            while True:
                self.count += 1
                yield self.count
                await asyncio.sleep(0)
        finally:
            self.stopped.set()

    async def gated(self, inputs: AsyncIterator[Any]) -> AsyncIterator[str]:
        async for _ in inputs:
            pass
        try:
            while True:
                await self.gate.await_()
                yield "word"
        finally:
            self.stopped.set()

    async def large(self, inputs: AsyncIterator[Any]) -> AsyncIterator[str]:
        async for _ in inputs:
            pass
        for _ in range(300):
            yield "x" * 100_000


LARGE = 10_000


@pytest.mark.parametrize(
    ("settings", "blocks"), [({"max_run_events": 10}, 10), ({"max_run_bytes": 400}, None)], ids=["events", "bytes"]
)
def test_a_run_with_too_many_blocks_is_stopped(settings: dict[str, int], blocks: int | None) -> None:
    bench = Bench(**settings)
    with client_of(bench.app) as client:
        with streaming(client, "/endless/stream") as reader:
            got = reader.rest()
        assert bench.stopped.wait(LIMIT)
    error = error_of(got[-1])
    assert (error["code"], error["status_code"], error["retryable"]) == ("log_full", 507, False)
    assert blocks is None or len(got) == blocks
    assert sum(map(len, got[1:-1])) <= settings.get("max_run_bytes", LARGE)
    assert len(got) < 20
    assert [int(block.split(b"id: ")[1].split(b"\n")[0]) for block in got] == list(range(1, len(got) + 1))


def test_a_terminal_beyond_the_bound_is_a_log_full_error() -> None:
    async def three(inputs: AsyncIterator[Any]) -> AsyncIterator[int]:
        async for _ in inputs:
            pass
        for number in range(3):
            yield number

    app = app_of({"three": RunnableGenerator(three)}, max_run_events=4)
    with client_of(app) as client, streaming(client, "/three/stream") as reader:
        assert error_of(reader.rest()[-1])["code"] == "log_full"


@pytest.mark.parametrize(("path", "settings"), [("/timed", {}), ("/gated", {"run_timeout": 0.1})])
def test_a_run_past_its_deadline_ends_with_timeout(path: str, settings: dict[str, float]) -> None:
    bench = Bench(**settings)
    with client_of(bench.app) as client:
        with streaming(client, f"{path}/stream") as reader:
            error = error_of(reader.rest()[-1])
        assert bench.stopped.wait(LIMIT)
    assert (error["code"], error["status_code"]) == ("timeout", 504)


def test_a_reader_above_the_limit_is_told_to_retry() -> None:
    bench = Bench(max_readers=2)
    with client_of(bench.app) as client, streaming(client, "/gated/stream") as first:
        path = f"/runs/{first.run_id}/stream"
        with streaming(client, path, method="GET"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (429, "too_many_readers")
            assert answer.headers["Retry-After"] == "1"
            assert answer.json()["retryable"]
        client.post(f"/runs/{first.run_id}/cancel?wait=5")
        with streaming(client, path, method="GET") as again:
            again.rest()


class SilentReader:
    """A reader that requests a stream and reads nothing."""

    def __init__(self, url: str, path: str) -> None:
        host, _, port = url.removeprefix("http://").strip("/").partition(":")
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(LIMIT)
        self.socket.connect((host, int(port)))
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())

    def read_to_the_end(self) -> bytes:
        """Return all bytes until the connection ends."""
        return b"".join(iter(lambda: self.socket.recv(1 << 20), b""))


def test_an_idle_reader_is_dropped_and_delays_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dropped, drop = threading.Event(), Reader.drop
    monkeypatch.setattr(Reader, "drop", lambda reader: (drop(reader), dropped.set()))
    bench = Bench(unread_timeout=0.3, keepalive=0.1)
    with client_of(bench.app) as client:
        run_id = client.post("/large/runs", json={"input": "x"}).json()["run_id"]
        assert ended(client, run_id)["status"] == "done"  # the producer waits for no reader
        silent = SilentReader(str(client.base_url), f"/runs/{run_id}/stream")
        with streaming(client, f"/runs/{run_id}/stream", method="GET") as other:
            assert len(other.rest()) == 302
        assert dropped.wait(LIMIT)
    # The server has stopped, although this reader never emptied its buffer.
    with silent.socket:
        got = silent.read_to_the_end()
    assert b"200 OK" in got.partition(b"\r\n")[0]
    assert len(got) < 30_000_000
    assert not got.endswith(b"0\r\n\r\n")
    assert capsys.readouterr().err == ""


def test_one_write_to_a_reader_is_bounded_by_bytes() -> None:
    bench = Bench()
    with client_of(bench.app) as client:
        run_id = client.post("/large/runs", json={"input": "x"}).json()["run_id"]
        ended(client, run_id)
    sizes = [len(write) for write in writes_of(services_in(bench.app).runs, run_id)]
    assert sum(sizes) > 30_000_000
    assert max(sizes) < 2 * 100_100
