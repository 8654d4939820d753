"""Calls with one body as the answer: they stop when the caller leaves or the server shuts down."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

from fastapi import Request, Response

from streamserve.errors import Cancelled, ShuttingDown
from streamserve.runs.runs import Runs
from streamserve.runs.sync_calls import SyncCalls, current_calls

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


async def while_connected(request: Request, runs: Runs, handler: Handler, places: int = 1) -> Response:
    """Run a handler, which counts as so many runs, until it is done, the caller leaves, or the server shuts down.

    Raises:
        Cancelled: the caller left.
        ShuttingDown: the server takes no new calls, or ended this call.
    """
    if runs.draining:
        raise ShuttingDown()
    calls = SyncCalls()
    current_calls.set(calls)
    task = asyncio.create_task(handler(request))
    leaving = asyncio.create_task(_left(request))
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


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
