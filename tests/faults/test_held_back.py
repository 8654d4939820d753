"""Tests that the client turns to long polling behind an nginx that holds event streams back, and keeps its promises."""

from __future__ import annotations

import asyncio
import itertools
import os
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from langchain_core.runnables import RunnableGenerator
from langserve import add_routes
from streamserve_sdk import RemoteRunnable, RetryPolicy, RunFailed
from streamserve_sdk.transport import opening

from deploy.cluster import nginx
from deploy.services import Missing, free_port
from streamserve import Chain
from tests.fakes import Gate
from tests.faults.proxy import Fault, Proxy, sequence
from tests.runs.support import app_of
from tests.servers import serving

FAST = RetryPolicy(first=0.01, longest=0.05)
# nginx speaks HTTP/1.0 to servers by default; such an answer has no chunks, so nginx waits until its buffer is full.
OUTER = """
  server {{
    listen 127.0.0.1:{port};
    proxy_http_version 1.0;
    proxy_buffering on;
    proxy_ignore_headers X-Accel-Buffering;
    location / {{
      proxy_pass http://{inner};
    }}
  }}
"""
TOKENS = [f"{number} " for number in range(8)]


class Bench:
    """A chain that yields a token whenever the gate opens, and counts its calls and the cancelled ones."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.cancelled = Gate()
        self.calls = 0
        self.chain = RunnableGenerator(self.count).with_types(input_type=str)

    async def count(self, inputs: AsyncIterator[str]) -> AsyncIterator[str]:
        async for text in inputs:
            self.calls += 1
            try:
                for token in TOKENS:
                    await self.gate.await_()
                    yield token
                if text == "fail":
                    raise ValueError("secret")
            except asyncio.CancelledError:
                self.cancelled.open()
                raise


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "HELD_AFTER", 0.3)


@contextmanager
def held_back(app: Any, folder: Path) -> Iterator[str]:
    """Serve an application behind nginx behind nginx, which is deaf to `X-Accel-Buffering`; yield the URL."""
    with serving(app) as url:
        port, server = free_port(), int(url.rpartition(":")[2])
        try:
            service = nginx(port, [server, server], folder)
        except Missing as missing:
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(missing))
        configuration = folder / "nginx.conf"
        behind = f"127.0.0.1:{free_port()}"
        inner = configuration.read_text("utf-8").replace(f"listen 127.0.0.1:{port};", f"listen {behind};")
        configuration.write_text(f"{inner.rstrip()[:-1]}{OUTER.format(port=port, inner=behind)}\n}}\n", "utf-8")
        try:
            service.start()
            yield f"http://127.0.0.1:{port}"
        finally:
            service.stop()


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def site(bench: Bench, tmp_path: Path) -> Iterator[str]:
    with held_back(app_of({"count": bench.chain}, insecure_public=True), tmp_path) as url:
        yield url


def test_tokens_arrive_before_the_run_ends(bench: Bench, site: str) -> None:
    with RemoteRunnable(f"{site}/count", retry=FAST) as remote:
        for _ in range(2):  # the second stream polls from the start
            chunks = remote.stream("x")
            for token in TOKENS:
                bench.gate.open()
                assert next(chunks) == token
            assert list(chunks) == []
    assert bench.calls == 2


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
async def test_tokens_arrive_without_blocking_the_loop(bench: Bench, site: str, transport: Any) -> None:
    async with RemoteRunnable(f"{site}/count", retry=FAST, transport=transport) as remote:
        chunks = remote.astream("x")
        for token in TOKENS:
            bench.gate.open()
            assert await anext(chunks) == token
        assert [chunk async for chunk in chunks] == []
    assert bench.calls == 1


class HeadsOnly(Proxy):
    """A proxy that passes the head of an event stream, and keeps its body."""

    async def _downward(self, server: asyncio.StreamReader, client: asyncio.StreamWriter, fault: Fault) -> None:
        head = await server.readuntil(b"\r\n\r\n")
        client.write(head)
        if b"text/event-stream" in head:
            self.struck["held"] += 1
            await asyncio.get_running_loop().create_future()
        await super()._downward(server, client, fault)


@pytest.mark.parametrize("kind", ["sync", "httpx", "aiohttp"])
async def test_tokens_arrive_if_only_heads_pass(bench: Bench, kind: Any) -> None:
    with serving(app_of({"count": bench.chain}, insecure_public=True)) as url:
        async with HeadsOnly(int(url.rpartition(":")[2]), sequence()) as proxy:
            transport = "httpx" if kind == "sync" else kind
            async with RemoteRunnable(f"{proxy.url}/count", retry=FAST, transport=transport) as remote:
                for _ in range(2):  # the second stream polls from the start
                    got: list[Any] = []
                    bench.gate.open(7)  # the last token comes once the client polls
                    if kind == "sync":
                        await asyncio.to_thread(_read_all, remote, got, bench.gate)
                    else:
                        await _read(remote, "x", got, bench.gate)
                    assert got == TOKENS
    assert (bench.calls, proxy.struck["held"]) == (2, 1)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_server_that_starts_late_streams(bench: Bench, kind: str) -> None:
    started, asked, paths = Gate(), 0, []

    async def late(config: Any, _request: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 2:  # the client asks whether the run has started
            started.open(2)
        await started.await_()
        return config

    app = app_of({"count": Chain(runnable=bench.chain, config=late)})

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope.get("path", "").rpartition("/")[2])
        await app(scope, receive, send)

    bench.gate.open(8)
    with serving(noting) as url, RemoteRunnable(f"{url}/count", retry=FAST) as remote:
        if kind == "sync":
            assert await asyncio.to_thread(lambda: list(remote.stream("x"))) == TOKENS
        else:
            assert [chunk async for chunk in remote.astream("x")] == TOKENS
        await remote.aclose()
    assert (asked, bench.calls, "blocks" in paths) == (2, 1, False)


@pytest.mark.parametrize("after", [900, 1000, 1100, 1500])
async def test_cut_polls_lose_and_repeat_nothing(bench: Bench, site: str, after: int) -> None:
    # The first connection is the stream's; the second one must live to answer that the server is there.
    cuts = [Fault(after=1), Fault(status=502), Fault(after=300), Fault(after=after, kind="close")]
    faults = sequence(Fault(), Fault(after=after), *cuts, *cuts)
    async with (
        Proxy(int(site.rpartition(":")[2]), faults) as proxy,
        RemoteRunnable(f"{proxy.url}/count", retry=FAST) as remote,
    ):
        got: list[Any] = []
        bench.gate.open()
        await _read(remote, "x", got, bench.gate)
    assert (got, bench.calls) == (TOKENS, 1)
    assert proxy.struck["reset"] >= 3


async def test_a_polled_run_that_fails_raises_after_its_tokens(bench: Bench, site: str) -> None:
    got: list[Any] = []
    async with RemoteRunnable(f"{site}/count", retry=FAST) as remote:
        bench.gate.open(7)  # the last token comes once the client polls
        with pytest.raises(RunFailed):
            await _read(remote, "fail", got, bench.gate)
    assert got == TOKENS


async def test_leaving_a_polled_stream_cancels_the_run(bench: Bench, site: str) -> None:
    bench.gate.open()
    async with RemoteRunnable(f"{site}/count", retry=FAST) as remote:
        async with aclosing(remote.astream("x")) as chunks:
            assert await anext(chunks) == TOKENS[0]
        bench.cancelled.wait()


def test_a_run_is_joined_by_polling(bench: Bench, site: str) -> None:
    ids: list[str] = []
    with RemoteRunnable(f"{site}/count", retry=FAST) as remote:
        bench.gate.open(3)
        chunks = remote.stream("x", detach=True, on_run=ids.append)
        assert [next(chunks) for _ in range(3)] == TOKENS[:3]
    with RemoteRunnable(f"{site}/count", retry=FAST) as other:
        joined = other.join(ids[0], after=3)
        assert next(joined) == TOKENS[2]
        bench.gate.open(5)
        assert list(joined) == TOKENS[3:]
    assert bench.calls == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_langserve_is_called_once_and_awaited(bench: Bench, tmp_path: Path, kind: str) -> None:
    app, asked = FastAPI(), itertools.count(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from langserve itself
        add_routes(app, bench.chain, path="/count")

    @app.get("/healthz")
    def _healthz() -> str:
        return "ok"

    @app.get("/runs/{run_id}", status_code=404)
    def _asked(run_id: str) -> dict[str, str]:  # what a stock server answers, and the token that ends the silence
        if next(asked) == 2:
            bench.gate.open(8)
        return {"detail": "Not Found"}

    with held_back(app, tmp_path) as url:
        async with RemoteRunnable(f"{url}/count", retry=FAST) as remote:
            if kind == "sync":
                assert await asyncio.to_thread(lambda: list(remote.stream("x"))) == TOKENS
            else:
                assert [chunk async for chunk in remote.astream("x")] == TOKENS
    assert bench.calls == 1


def _read_all(remote: RemoteRunnable[Any, Any], got: list[Any], gate: Gate) -> None:
    for chunk in remote.stream("x"):
        got.append(chunk)
        gate.open()


async def _read(remote: RemoteRunnable[Any, Any], text: str, got: list[Any], gate: Gate) -> None:
    async for chunk in remote.astream(text):
        got.append(chunk)
        gate.open()
