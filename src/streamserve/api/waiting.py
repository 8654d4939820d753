"""A request that waits for a run."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from math import isfinite
from typing import Any, TypeVar

from fastapi import Request

from streamserve.errors import BadRequest, Cancelled, ShuttingDown
from streamserve.runs.output import CALLS
from streamserve.runs.runs import Runs
from streamserve.stores import RunRecord

# Maximum seconds that a request may wait, because it holds a connection; a caller repeats it to wait longer.
MAX_WAIT = 60.0

R = TypeVar("R")
Reading = Callable[[Callable[[], None]], AbstractContextManager[None]]


def _reading_nothing(_drop: Callable[[], None]) -> AbstractContextManager[None]:
    return nullcontext()


def parse_wait(request: Request) -> float | None:
    """Return the seconds in a request's `wait`, or None.

    Raises:
        BadRequest: the parameter is not a number of seconds up to the maximum.
    """
    text = request.query_params.get("wait")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not (isfinite(seconds) and 0 <= seconds <= MAX_WAIT):
        raise BadRequest(f"wait: 0 to {MAX_WAIT:g} seconds, not {text[:40]!r}")
    return seconds


async def wait_for_end(request: Request, runs: Runs, record: RunRecord, seconds: float | None) -> RunRecord:
    """Return the record once the run has ended, or after this number of seconds.

    The caller of /invoke or /batch is the run's reader meanwhile: the run has no blocks to read.

    Args:
        seconds: None: as long as the run takes.

    Raises:
        Cancelled: the caller left.
        ShuttingDown: the server shuts down.
        TooManyReaders: the run has the maximum number of readers.
    """
    waiting = runs.wait(record, seconds)
    if record.ended or record.endpoint not in CALLS:
        return await while_connected(request, waiting)
    return await while_reading(request, runs, record.run_id, waiting)


async def while_reading(request: Request, runs: Runs, run_id: str, work: Coroutine[Any, Any, R]) -> R:
    """Return the result of the work; the caller is a reader of the run meanwhile.

    Raises:
        Cancelled: the caller left.
        ShuttingDown: the server shuts down.
        TooManyReaders: the run has the maximum number of readers.
    """
    return await while_connected(request, work, partial(runs.reading, run_id))


async def while_connected(request: Request, work: Coroutine[Any, Any, R], reading: Reading = _reading_nothing) -> R:
    """Return the result of the work, which ends when the caller leaves.

    Args:
        reading: returns the context of the work; called with a function that ends the work. Default: none.

    Raises:
        Cancelled: the caller left.
        ShuttingDown: the server shuts down.
    """
    left = asyncio.create_task(disconnected(request))
    end = asyncio.create_task(work)

    def drop() -> None:
        left.cancel()

    try:
        with reading(drop):
            await asyncio.wait({end, left}, return_when=asyncio.FIRST_COMPLETED)
            if not end.done():
                raise ShuttingDown() if left.cancelled() else Cancelled("The caller left")
            return end.result()
    finally:
        left.cancel()
        end.cancel()


async def disconnected(request: Request) -> None:
    """Return once the caller has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
