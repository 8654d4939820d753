"""The handler that stops sync code from within: it is there in a run's OS threads only."""

from __future__ import annotations

import asyncio

import pytest

from streamserve.runs.sync_calls import SyncCalls, _StopperInOSThread, current_calls


async def test_only_sync_code_of_a_run_has_its_stopper() -> None:
    found, calls = _StopperInOSThread().get, SyncCalls()
    assert await asyncio.to_thread(found) is None
    token = current_calls.set(calls)
    assert (found(), await asyncio.to_thread(found)) == (None, calls.stopper)
    current_calls.reset(token)


def test_a_stopped_run_ends_at_its_next_call() -> None:
    calls = SyncCalls()
    for step in (calls.stopper.on_llm_start, calls.stopper.on_llm_new_token, calls.stopper.on_tool_start):
        step("x")
    calls.stop()
    for step in (calls.stopper.on_llm_start, calls.stopper.on_llm_new_token, calls.stopper.on_tool_start):
        with pytest.raises(asyncio.CancelledError):
            step("x")
