"""Shutdown from SIGTERM to the last terminal block, in a real process except where a store must be delayed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from streamserve.call import Call
from streamserve.runs.run import Events
from streamserve.runs.runs import Runs
from streamserve.settings import Settings
from streamserve.stores import RunRecord
from tests.runs.support import LIMIT, error_of, streaming

ROOT = Path(__file__).parents[2]
SERVER = """
import asyncio
import threading
from typing import Any
from langchain_core.runnables import RunnableGenerator, RunnableLambda
from tests.runs.support import app_of

started = threading.Event()
released = asyncio.Event()

def deaf(_given: Any) -> None:
    started.set()
    threading.Event().wait(60)

async def say(inputs: Any) -> Any:
    async for _ in inputs:
        pass
    yield "first"
    await released.wait()
    yield "last"

app = app_of({"gated": RunnableGenerator(say), "deaf": RunnableLambda(deaf)}, drain_time=DRAIN, cancel_grace=0.2)

@app.post("/go-on")
async def open_gate() -> None:
    released.set()

@app.get("/started")
def wait_for_deaf() -> bool:
    return started.wait(10)
"""


class Process:
    """A uvicorn process."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.client = httpx.Client(base_url=url, timeout=LIMIT)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def exit_code(self) -> int:
        return self.process.wait(LIMIT)


@contextmanager
def uvicorn(folder: Path, drain: float) -> Iterator[Process]:
    (folder / "gated_server.py").write_text(SERVER.replace("DRAIN", str(drain)))
    command = [sys.executable, "-m", "uvicorn", "gated_server:app", "--port", "0", "--app-dir", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            port = next(found[1] for line in process.stderr if (found := re.search(r"127\.0\.0\.1:(\d+)", line)))
            server = Process(process, f"http://127.0.0.1:{port}")
            with server.client:
                yield server
        finally:
            process.kill()


Serve = Callable[[float], Process]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda drain: stack.enter_context(uvicorn(tmp_path, drain))


def draining(client: httpx.Client) -> httpx.Response:
    """Return the first answer of /readyz that is not 200."""
    while (answer := client.get("/readyz")).status_code == 200:
        pass
    return answer


def test_an_idle_server_stops_at_once_with_exit_code_0(serve: Serve) -> None:
    server = serve(60)
    assert server.client.get("/readyz").status_code == 200
    server.signal(signal.SIGTERM)
    assert server.exit_code() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_live_runs_finish_while_new_ones_are_refused(serve: Serve, number: signal.Signals) -> None:
    server = serve(60)
    with streaming(server.client, "/gated/stream") as reader:
        reader.until(b'"first"')
        server.signal(number)
        ready = draining(server.client)
        assert (ready.status_code, ready.headers["Retry-After"]) == (503, "5")
        assert server.client.get("/healthz").status_code == 200
        for endpoint in ("stream", "runs", "invoke"):
            refused = server.client.post(f"/gated/{endpoint}", json={"input": "x"})
            assert (refused.status_code, refused.json()["code"]) == (503, "shutting_down")
            assert refused.headers["Retry-After"] == "5"
        with streaming(server.client, f"/runs/{reader.run_id}/stream", method="GET") as joined:
            server.client.post("/go-on")
            blocks = reader.rest()
            assert joined.rest()[2:] == blocks
    assert [b'"last"' in blocks[0], b"event: end" in blocks[1]] == [True, True]
    assert server.exit_code() == 0


def test_a_run_past_the_drain_time_ends_with_shutting_down(serve: Serve) -> None:
    server = serve(0.3)
    with streaming(server.client, "/gated/stream") as reader:
        reader.until(b'"first"')
        server.signal(signal.SIGTERM)
        error = error_of(reader.rest()[-1])
    assert (error["code"], error["status_code"], error["retryable"]) == ("shutting_down", 503, True)
    assert server.exit_code() == 0


@pytest.mark.parametrize("endpoint", ["runs", "stream"])
def test_a_sync_step_that_goes_on_does_not_keep_the_server(serve: Serve, endpoint: str) -> None:
    server = serve(0.1)
    with server.client.stream("POST", f"/deaf/{endpoint}", json={"input": "x"}) as answer:
        assert server.client.get("/started").json() is True
        server.signal(signal.SIGTERM)
        answer.read()
    assert server.exit_code() == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_runs_at_once(serve: Serve, second: signal.Signals) -> None:
    server = serve(60)
    with streaming(server.client, "/gated/stream") as reader:
        reader.until(b'"first"')
        server.signal(signal.SIGTERM)
        draining(server.client)
        server.signal(second)
        assert error_of(reader.rest()[-1])["code"] == "shutting_down"
    assert server.exit_code() == 0


def test_a_hundred_streams_all_get_their_terminal(serve: Serve) -> None:
    server = serve(1.0)
    with ExitStack() as stack:
        limits = httpx.Limits(max_connections=None)
        client = stack.enter_context(httpx.Client(base_url=server.client.base_url, timeout=LIMIT, limits=limits))
        readers = [stack.enter_context(streaming(client, "/gated/stream")) for _ in range(100)]
        for reader in readers:
            reader.until(b'"first"')
        server.signal(signal.SIGTERM)
        ends = [reader.rest()[-1] for reader in readers]
    assert {error_of(end)["code"] for end in ends} == {"shutting_down"}
    assert server.exit_code() == 0


async def test_a_shutdown_waits_for_a_run_that_is_being_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(Settings(drain_time=LIMIT))
    storing, stored = asyncio.Event(), asyncio.Event()
    acquire = runs.store.acquire

    async def slowly(record: RunRecord, *, alone: bool = False) -> tuple[RunRecord, bool]:
        storing.set()
        await stored.wait()
        return await acquire(record, alone=alone)

    async def events() -> Events:
        yield {"event": "data", "data": b'"word"'}
        yield {"event": "end"}

    monkeypatch.setattr(runs.store, "acquire", slowly)
    record = RunRecord(run_id="r", chain="c", endpoint="stream", principal="p", created_at=0)
    async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as tasks:
        tasks.create_task(runs.start(record, events(), Call("r"), timeout=None, on_disconnect="continue"))
        await storing.wait()
        shutdown = tasks.create_task(runs.drain())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not shutdown.done()
        stored.set()
    found = await runs.store.get("r")
    assert found is not None
    assert found.status == "done"
