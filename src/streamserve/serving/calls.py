"""Calls with one body as the answer: they stop when the caller leaves or the server shuts down."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

from fastapi import Request

from streamserve.api.waiting import disconnected
from streamserve.call import Call
from streamserve.errors import Cancelled, ShuttingDown
from streamserve.runs.run import Events
from streamserve.runs.runs import Runs
from streamserve.runs.sync_calls import SyncCalls, current_calls

# Calls the chain, and returns the body of the answer.
Work = Callable[[], Coroutine[Any, Any, bytes]]


async def while_connected(request: Request, runs: Runs, work: Work, places: int = 1) -> bytes:
    """Work, which counts as so many runs, until the answer is there, the caller leaves, or the server shuts down.

    Raises:
        Cancelled: the caller left.
        ShuttingDown: the server takes no new calls, or ended this call.
    """
    if runs.draining:
        raise ShuttingDown()
    calls = SyncCalls()
    current_calls.set(calls)
    task = asyncio.create_task(work())
    leaving = asyncio.create_task(disconnected(request))
    with runs.calling(cast("asyncio.Task[object]", task), places):
        try:
            await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
            stopped = not task.done()
            if stopped:
                task.cancel()
                await asyncio.wait({task}, timeout=runs.settings.cancel_grace)
        finally:
            leaving.cancel()
            task.cancel()
            calls.stop()
    # A chain may raise CancelledError by itself: that is its error, and nobody left.
    if not task.done() or (task.cancelled() and (stopped or runs.draining)):
        raise ShuttingDown() if runs.draining else Cancelled("The caller left")
    return task.result()


async def as_run(runs: Runs, call: Call, work: Work, places: int = 1) -> Events:
    """Yield the events of a run that does the work, counts as so many runs, and has the answer as its output."""
    with runs.further(places - 1):
        call.output = await work()
    yield {"event": "end"}
