"""Work at the end of the server that must not hold it up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress


async def at_most(seconds: float, work: Sequence[Callable[[], None]]) -> None:
    """Does blocking work beside the event loop, and leaves what takes longer.

    Not in the executor, whose threads the process waits for at its end.

    Args:
        seconds: for all of it.
        work: each in a thread of its own, which ends with the process.
    """
    if work:
        await asyncio.wait([_started(one) for one in work], timeout=seconds)


def _started(work: Callable[[], None]) -> asyncio.Future[None]:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def run() -> None:
        try:
            work()
        finally:
            with suppress(RuntimeError):  # the event loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_resolve, done)

    threading.Thread(target=run, name="telemetry's end", daemon=True).start()
    return done


def _resolve(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
