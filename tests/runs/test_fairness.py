"""Time slices: a chain that never waits lets other tasks run, and a chain that waits is not delayed."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk

from benchmarks.workload import HOT, Order, TokenModel, text_chain
from streamserve.runs import fairness
from streamserve.runs.fairness import SLICE, LoopIterations, TimeSlice
from tests.runs.support import LIMIT, app_of, client_of, streaming

ENDLESS = {"order": str(Order(10**9, HOT))}


def work(seconds: float) -> None:
    """Block the event loop."""
    end = monotonic() + seconds
    while monotonic() < end:
        pass


async def test_other_tasks_run_after_the_first_block() -> None:
    share = TimeSlice()
    assert share.is_spent()
    await asyncio.sleep(0)
    assert not share.is_spent()


async def test_a_spent_slice_lasts_until_other_tasks_have_run() -> None:
    share = TimeSlice()
    await asyncio.sleep(0)
    assert not share.is_spent()
    work(2 * SLICE)
    assert share.is_spent()
    assert share.is_spent()
    await asyncio.sleep(0)
    assert not share.is_spent()


async def test_a_task_that_waited_gets_a_whole_slice() -> None:
    share = TimeSlice()
    await asyncio.sleep(0)
    work(2 * SLICE)
    assert not share.is_spent()
    work(2 * SLICE)
    assert share.is_spent()


async def test_a_slice_lasts_its_whole_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.75]
    monkeypatch.setattr(fairness, "SLICE", 0.5)
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    share, spent = TimeSlice(), []
    spent.append(share.is_spent())
    await asyncio.sleep(0)
    for seconds in (0.0, 0.0, 0.5, 0.25):
        now[0] += seconds
        spent.append(share.is_spent())
    assert spent == [True, False, False, False, True]


async def test_iterations_of_the_event_loop_are_counted_once() -> None:
    iterations = LoopIterations()
    assert [iterations.current(), iterations.current()] == [0, 0]
    await asyncio.sleep(0)
    assert [iterations.current(), iterations.count] == [1, 1]


def test_a_closed_event_loop_is_garbage_collected() -> None:
    async def shared() -> weakref.ref[asyncio.AbstractEventLoop]:
        TimeSlice()
        return weakref.ref(asyncio.get_running_loop())

    ended = asyncio.run(shared())
    gc.collect()
    assert ended() is None


def test_a_first_token_is_sent_before_a_busy_chain_continues() -> None:
    arrived, in_time = threading.Event(), []

    class Holding(TokenModel):
        async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
            yield ChatGenerationChunk(message=AIMessageChunk("first"))
            in_time.append(arrived.wait(LIMIT))  # blocks the event loop
            yield ChatGenerationChunk(message=AIMessageChunk("second"))

    app = app_of({"holding": text_chain(Holding())})
    with client_of(app) as client, streaming(client, "/holding/stream", ENDLESS) as reader:
        reader.until(b"first")
        arrived.set()
        reader.until(b"second")
    assert in_time == [True]


def test_other_requests_are_answered_while_a_chain_never_waits() -> None:
    bounds = {"max_run_events": 10**9, "max_run_bytes": 10**9}
    app = app_of({"firehose": text_chain()}, **bounds)
    with client_of(app) as client, streaming(client, "/firehose/stream", ENDLESS) as reader:
        reader.next()
        assert client.get("/healthz").status_code == 200
        assert client.get(f"/runs/{reader.run_id}").json()["status"] == "running"
        assert client.post(f"/runs/{reader.run_id}/cancel").status_code < 300
        assert b"cancelled" in reader.rest()[-1]
