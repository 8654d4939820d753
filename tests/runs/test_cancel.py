"""Cancellation: it is idempotent, and its answer is true."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest
from langchain_core.runnables import RunnableGenerator, RunnableLambda
from langchain_core.tools import tool

from streamserve.api.services import services_in
from tests.fakes import Gate
from tests.runs.support import LIMIT, PACE, GatedBench, app_of, client_of, error_of, streaming
from tests.runs.support import client_of_bench as client_of_bench  # a fixture

GRACE = 0.2


class Bench(GatedBench):
    """Chains that obey a cancellation, catch it, or block an OS thread."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.cancelled = threading.Event()
        self.release = threading.Event()
        chains = {
            "count": RunnableGenerator(self.count),
            "stubborn": RunnableLambda(self.stubborn),
            "swallowing": RunnableGenerator(self.swallowing),
            "chatty": RunnableGenerator(self.chatty),
            "losing": RunnableGenerator(self.losing),
            "tool": tool(self.slow_tool),
        }
        self.app = app_of(chains, cancel_grace=GRACE)

    async def count(self, inputs: Any) -> Any:
        async for _ in inputs:
            pass
        for number in range(2):
            await self.gate.await_()
            yield str(number)

    async def stubborn(self, _given: Any) -> str:
        self.entered.set()
        while not self.release.is_set():
            try:
                await self.gate.await_()
            except asyncio.CancelledError:
                self.cancelled.set()
        return "late"

    async def swallowing(self, inputs: Any) -> Any:
        async for _ in inputs:
            pass
        yield "half"
        try:
            await self.gate.await_()
        except asyncio.CancelledError:
            return

    async def chatty(self, inputs: Any) -> Any:
        async for _ in inputs:
            pass
        number = 0
        while not self.release.is_set():
            try:
                self.entered.set()
                await self.gate.await_()
            except asyncio.CancelledError:
                self.cancelled.set()
            number += 1
            yield number

    async def losing(self, inputs: Any) -> Any:
        """Lose the first cancellation, as asyncio.wait_for does before Python 3.12."""
        async for _ in inputs:
            pass
        try:
            while True:
                yield "token"
                try:
                    await asyncio.sleep(PACE)
                except asyncio.CancelledError:
                    if self.cancelled.is_set():
                        raise
                    self.cancelled.set()
        finally:
            self.release.set()

    def let_all_end(self) -> None:
        self.release.set()
        super().let_all_end()

    def slow_tool(self, given: str) -> str:
        """Block the OS thread until the test releases it."""
        self.entered.set()
        assert self.release.wait(LIMIT)
        return given


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_cancelled_run_ends_with_an_error_block(client: httpx.Client) -> None:
    with streaming(client, "/count/stream") as reader:
        reader.next()
        client.post(f"/runs/{reader.run_id}/cancel")
        (last,) = reader.rest()
    assert last == (
        b'id: 2\nevent: error\ndata: {"status_code":499,"message":"The run was cancelled","code":"cancelled",'
        b'"retryable":false,"run_id":"%s"}\n\n' % reader.run_id.encode()
    )


def test_a_cancel_can_be_repeated(client: httpx.Client) -> None:
    with streaming(client, "/count/stream") as reader:
        reader.next()
        answers = [client.post(f"/runs/{reader.run_id}/cancel?wait=5") for _ in range(3)]
        assert len(reader.rest()) == 1
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert {answer.json()["status"] for answer in answers} == {"cancelled"}


def test_a_cancel_without_a_wait_answers_202(bench: Bench, client: httpx.Client) -> None:
    with streaming(client, "/stubborn/stream") as reader:
        assert bench.entered.wait(LIMIT)
        answer = client.post(f"/runs/{reader.run_id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "running")


def test_a_cancel_of_a_finished_run_answers_its_status(bench: Bench, client: httpx.Client) -> None:
    bench.gate.open(2)
    with streaming(client, "/count/stream") as reader:
        blocks = reader.rest()
    answer = client.post(f"/runs/{reader.run_id}/cancel?wait=1")
    assert (answer.status_code, answer.json()["status"]) == (200, "done")
    with streaming(client, f"/runs/{reader.run_id}/stream", method="GET") as again:
        assert again.rest() == blocks


def test_a_cancel_that_races_the_end_leaves_one_true_terminal(bench: Bench, client: httpx.Client) -> None:
    for _ in range(30):
        with streaming(client, "/count/stream") as reader:
            bench.gate.open(1)
            reader.until(b'"0"')
            finish = threading.Thread(target=bench.gate.open)
            finish.start()
            status = client.post(f"/runs/{reader.run_id}/cancel?wait=5").json()["status"]
            finish.join(LIMIT)
            blocks = reader.rest()
            bench.gate = Gate()
        terminals = [block for block in blocks if b"event: end" in block or b"event: error" in block]
        assert terminals == blocks[-1:]
        assert (b"event: end" in blocks[-1]) == (status == "done")


def test_a_step_that_ignores_cancellation_is_named(bench: Bench, client: httpx.Client) -> None:
    with streaming(client, "/stubborn/stream") as reader:
        assert bench.entered.wait(LIMIT)
        first = client.post(f"/runs/{reader.run_id}/cancel")
        assert first.status_code == 202
        assert bench.cancelled.wait(LIMIT)
        last = client.post(f"/runs/{reader.run_id}/cancel?wait=5")
        assert last.status_code == 200
        assert "may still be running" in last.json()["error"]["message"]
        assert "may still be running" in error_of(reader.rest()[-1])["message"]


def test_a_sync_tool_that_still_runs_is_named(bench: Bench, client: httpx.Client) -> None:
    with streaming(client, "/tool/stream", input={"given": "x"}) as reader:
        assert bench.entered.wait(LIMIT)
        answer = client.post(f"/runs/{reader.run_id}/cancel?wait=5")
        assert "may still be running" in answer.json()["error"]["message"]
        reader.rest()


def test_a_sync_tool_that_returns_within_the_grace_is_not_named(client: httpx.Client) -> None:
    bench = Bench()
    services_in(bench.app).runs.settings.cancel_grace = LIMIT
    with client_of(bench.app) as client, streaming(client, "/tool/stream", input={"given": "x"}) as reader:
        assert bench.entered.wait(LIMIT)
        assert client.post(f"/runs/{reader.run_id}/cancel").status_code == 202
        bench.release.set()
        assert error_of(reader.rest()[-1])["message"] == "The run was cancelled"


def test_a_swallowed_cancellation_does_not_end_a_run_as_done(
    client: httpx.Client,
) -> None:
    with streaming(client, "/swallowing/stream") as reader:
        reader.until(b'"half"')
        client.post(f"/runs/{reader.run_id}/cancel?wait=5")
        assert error_of(reader.rest()[-1])["code"] == "cancelled"


def test_a_lost_cancellation_is_repeated_before_the_grace_ends() -> None:
    bench = Bench()
    services_in(bench.app).runs.settings.cancel_grace = 10 * LIMIT
    with client_of(bench.app) as client, streaming(client, "/losing/stream") as reader:
        reader.until(b'"token"')
        assert client.post(f"/runs/{reader.run_id}/cancel?wait=5").json()["status"] == "cancelled"
        assert bench.cancelled.is_set()
        assert bench.release.is_set()


def test_chunks_after_the_terminal_are_dropped(
    bench: Bench, client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with streaming(client, "/chatty/stream") as reader:
        assert bench.entered.wait(LIMIT)
        bench.gate.open(3)
        reader.until(b"data: 3")
        client.post(f"/runs/{reader.run_id}/cancel?wait=5")
        before = reader.rest()
    bench.gate.open(3)
    bench.release.set()
    bench.gate.open(50)
    with streaming(client, f"/runs/{reader.run_id}/stream", method="GET") as again:
        assert again.rest()[-1] == before[-1]
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
