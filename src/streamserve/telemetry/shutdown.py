"""Blocking work at the end of the server, within a time limit."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress


async def run_within(seconds: float, work: Sequence[Callable[[], None]]) -> None:
    """Run blocking functions in daemon threads, and abandon those that a limit for all together leaves unfinished.

    The threads are not the executor's, because the process would wait for those at its end.
    """
    if work:
        await asyncio.wait([_start(one) for one in work], timeout=seconds)


def _start(work: Callable[[], None]) -> asyncio.Future[None]:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def run() -> None:
        try:
            work()
        finally:
            with suppress(RuntimeError):  # the event loop is closed, so nothing waits for the result
                loop.call_soon_threadsafe(_resolve, done)

    threading.Thread(target=run, name="telemetry-shutdown", daemon=True).start()
    return done


def _resolve(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
