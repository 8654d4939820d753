"""The endpoints under /runs."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from langchain_core.runnables import RunnableGenerator

from streamserve.api.services import install, services_in
from streamserve.runs.runs import Runs
from streamserve.stores import MemoryStore, RunRecord
from tests.fakes import Gate
from tests.runs.support import LIMIT, app_of, blocks_of, caller, ended, streaming
from tests.servers import serving

UNKNOWN = "00000000-0000-0000-0000-000000000000"
ENDPOINTS = [("GET", ""), ("GET", "/stream"), ("GET", "/output"), ("POST", "/cancel"), ("DELETE", "")]


class Bench:
    """A served chain that yields three numbers, each when the gate opens, and a clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.gate = Gate()
        self.app = app_of({"count": RunnableGenerator(self.count)}, caller)
        services = services_in(self.app)
        self.runs = Runs(services.settings, MemoryStore(clock=lambda: self.now))
        install(self.app, replace(services, runs=self.runs))
        # The reaper uses the machine's clock, by which every run of this clock would be past its retention.
        self.runs.reaper.run = asyncio.Event().wait  # type: ignore[method-assign, assignment]

    async def count(self, inputs: Any) -> Any:
        async for _ in inputs:
            pass
        for number in range(3):
            await self.gate.await_()
            yield str(number)

    def turn_clock(self, to: float) -> None:
        self.now = to
        asyncio.run(self.runs.store.reap(to))


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def client(bench: Bench) -> Iterator[httpx.Client]:
    with serving(bench.app) as url, httpx.Client(base_url=url, timeout=LIMIT) as client:
        yield client


def finished(bench: Bench, client: httpx.Client) -> str:
    bench.gate.open(3)
    with streaming(client, "/count/stream") as reader:
        reader.rest()
        return reader.run_id


def test_a_run_has_a_state_while_it_is_live_and_once_it_ended(bench: Bench, client: httpx.Client) -> None:
    with streaming(client, "/count/stream") as reader:
        bench.gate.open()
        reader.until(b'"0"')
        state = client.get(f"/runs/{reader.run_id}").json()
        assert (state["status"], state["chain"], state["attempt"]) == ("running", "count", 1)
        assert (state["first_id"], state["last_id"], state["ended_at"], state["expires_at"]) == (1, 2, None, None)
        bench.gate.open(2)
        reader.rest()
    state = client.get(f"/runs/{reader.run_id}").json()
    assert (state["status"], state["first_id"], state["last_id"]) == ("done", 1, 5)
    assert (state["ended_at"], state["expires_at"]) == (1000, 4600)
    assert "error" not in state


def test_a_cursor_at_or_past_the_end_has_no_content(bench: Bench, client: httpx.Client) -> None:
    run_id = finished(bench, client)
    for cursor in ("5", "6", "now"):
        answer = client.get(f"/runs/{run_id}/stream", params={"after": cursor})
        assert (answer.status_code, answer.content) == (204, b"")
    assert client.get(f"/runs/{run_id}/stream", headers={"Last-Event-ID": "5"}).status_code == 204


def test_after_now_streams_only_later_blocks(bench: Bench, client: httpx.Client) -> None:
    with streaming(client, "/count/stream") as first:
        bench.gate.open(1)
        first.until(b'"0"')
        with streaming(client, f"/runs/{first.run_id}/stream?after=now", method="GET") as second:
            assert second.response.headers["Run-Replay-From"] == "2"
            bench.gate.open(2)
            assert [block.split(b"\n")[0] for block in second.rest()] == [b"id: 3", b"id: 4", b"id: 5"]


def test_the_last_event_id_overrides_the_parameter(bench: Bench, client: httpx.Client) -> None:
    run_id = finished(bench, client)
    with streaming(client, f"/runs/{run_id}/stream?after=1", method="GET", Last_Event_ID="3") as reader:
        assert reader.next().startswith(b"id: 4\n")


def test_an_empty_last_event_id_is_ignored(bench: Bench, client: httpx.Client) -> None:
    run_id = finished(bench, client)
    assert len(blocks_of(client, f"/runs/{run_id}/stream", Last_Event_ID="")) == 5


@pytest.mark.parametrize("cursor", ["-1", "1.5", "x", "\u0661", "1e3", "9" * 16, " 1", "0x1"])
def test_a_cursor_that_is_not_a_number_is_refused(bench: Bench, client: httpx.Client, cursor: str) -> None:
    run_id = finished(bench, client)
    answer = client.get(f"/runs/{run_id}/stream", params={"after": cursor})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert "after" in answer.json()["detail"]


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_an_unknown_run_is_not_found(client: httpx.Client, method: str, path: str) -> None:
    for run_id in (UNKNOWN, "x", "%00"):
        answer = client.request(method, f"/runs/{run_id}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_the_run_of_another_principal_is_not_found(bench: Bench, client: httpx.Client, method: str, path: str) -> None:
    with streaming(client, "/count/stream", X_Caller="me") as reader:
        other = client.request(method, f"/runs/{reader.run_id}{path}", headers={"X-Caller": "you"})
        unknown = client.request(method, f"/runs/{UNKNOWN}{path}", headers={"X-Caller": "you"})
        assert (other.status_code, other.json()) == (404, unknown.json())
        bench.gate.open(3)
        assert reader.rest()[-1] == b"id: 5\nevent: end\ndata:\n\n"


def test_a_run_expires_leaves_a_tombstone_and_is_forgotten(bench: Bench, client: httpx.Client) -> None:
    run_id = finished(bench, client)
    bench.turn_clock(4599)
    assert len(blocks_of(client, f"/runs/{run_id}/stream")) == 5
    bench.turn_clock(4600)
    answer = client.get(f"/runs/{run_id}/stream")
    assert answer.status_code == 410
    assert answer.json() | {"detail": ""} == {
        "detail": "",
        "code": "run_expired",
        "retryable": False,
        "run_id": None,
        "earliest": None,
        "last_id": 5,
        "status": "done",
    }
    assert client.get(f"/runs/{run_id}/output").status_code == 410
    assert client.get(f"/runs/{run_id}/stream?after=5").status_code == 204
    state = client.get(f"/runs/{run_id}").json()
    assert (state["status"], state["first_id"], state["last_id"]) == ("done", None, 5)
    bench.turn_clock(4600 + 86_400)
    assert client.get(f"/runs/{run_id}").status_code == 404


def test_a_live_run_never_expires(bench: Bench, client: httpx.Client) -> None:
    with streaming(client, "/count/stream") as reader:
        reader.next()
        bench.turn_clock(1e9)
        bench.gate.open(3)
        assert len(reader.rest()) == 4


def test_a_run_that_does_not_end_is_not_said_to_be_gone(bench: Bench, client: httpx.Client) -> None:
    record = RunRecord("elsewhere", "count", "stream", "nobody", bench.now)
    asyncio.run(bench.runs.store.acquire(record))  # its owner, another process, is frozen
    bench.runs.settings.cancel_grace = -1.0
    assert client.delete("/runs/elsewhere").status_code == 202
    record.status = "cancelled"
    assert client.delete("/runs/elsewhere").status_code == 204


def test_a_deleted_run_is_cancelled_and_gone(bench: Bench, client: httpx.Client) -> None:
    with streaming(client, "/count/stream") as reader:
        reader.next()
        assert client.delete(f"/runs/{reader.run_id}").status_code == 204
        assert b'"code":"cancelled"' in reader.next()
    assert client.get(f"/runs/{reader.run_id}/stream").status_code == 410
    assert client.delete(f"/runs/{reader.run_id}").status_code == 204


def test_the_output_of_a_live_run_is_awaited(bench: Bench, client: httpx.Client) -> None:
    with streaming(client, "/count/stream") as reader:
        reader.next()
        answer = client.get(f"/runs/{reader.run_id}/output")
        assert (answer.status_code, answer.json()["status"]) == (202, "running")
        bench.gate.open(3)
        assert client.get(f"/runs/{reader.run_id}/output?wait={LIMIT}").json()["output"] == "012"


def test_the_output_of_a_failed_run_is_its_error(client: httpx.Client) -> None:
    with streaming(client, "/count/stream") as reader:
        reader.next()
        client.post(f"/runs/{reader.run_id}/cancel")
        ended(client, reader.run_id)
    answer = client.get(f"/runs/{reader.run_id}/output")
    assert answer.status_code == 409
    assert answer.json() == {
        "detail": "The run was cancelled",
        "code": "cancelled",
        "retryable": False,
        "run_id": reader.run_id,
    }


@pytest.mark.parametrize("request_line", ["GET /runs/elsewhere/output?wait=60", "POST /runs/elsewhere/cancel?wait=60"])
def test_a_wait_ends_when_its_caller_leaves(bench: Bench, client: httpx.Client, request_line: str) -> None:
    asyncio.run(bench.runs.store.acquire(RunRecord("elsewhere", "count", "stream", "nobody", bench.now)))
    begun, over, wait = threading.Event(), threading.Event(), bench.runs.wait

    async def watched(*arguments: Any) -> RunRecord:
        begun.set()
        try:
            return await wait(*arguments)
        finally:
            over.set()

    bench.runs.wait = watched  # type: ignore[method-assign]
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as connection:
        connection.sendall(f"{request_line} HTTP/1.1\r\nHost: server\r\n\r\n".encode())
        assert begun.wait(LIMIT)
        assert not over.is_set()
    assert over.wait(LIMIT)


@pytest.mark.parametrize("wait", ["-1", "61", "x"])
def test_a_wait_out_of_its_bounds_is_refused(bench: Bench, client: httpx.Client, wait: str) -> None:
    run_id = finished(bench, client)
    assert client.get(f"/runs/{run_id}/output", params={"wait": wait}).status_code == 422
