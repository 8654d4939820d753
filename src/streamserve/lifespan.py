"""What lives as long as the server: its stores, threads and reaper, and the way from SIGTERM to the last block."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any

from fastapi import FastAPI

from streamserve.api.services import services_in
from streamserve.errors import ShuttingDown
from streamserve.runs.runs import Runs
from streamserve.runs.sync_calls import SyncCallExecutor

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """FastAPI's lifespan of the application."""
    services = services_in(app)
    services.auth.require_private()
    runs = services.runs
    async with services.checkpoints.opened(), services.telemetry.measuring(runs), _running(runs):
        try:
            yield
        finally:
            await services.limits.close()


@asynccontextmanager
async def _running(runs: Runs) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    threads = SyncCallExecutor(runs.settings.threads, thread_name_prefix="chain")
    loop.set_default_executor(threads)
    collect_what_is_new(runs.settings.gc_threshold)
    await runs.store.open()
    reaper = asyncio.create_task(runs.reaper.run())
    try:
        with _drain_on_signal(runs, loop):
            yield
    finally:
        await runs.drain()
        reaper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reaper
        await runs.store.close()


@contextmanager
def _drain_on_signal(runs: Runs, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    shutdown = _Shutdown(runs, loop, {number: signal.getsignal(number) for number in SIGNALS})
    for number in SIGNALS:
        signal.signal(number, shutdown.handle)
    try:
        yield
    finally:
        for number in SIGNALS:
            signal.signal(number, shutdown.previous[number])


class _Shutdown:
    """Drains at the first signal and only then lets the server stop: it closes its port at once, and /readyz could
    not tell a load balancer any more. A second signal ends the runs and stops the server now."""

    def __init__(self, runs: Runs, loop: asyncio.AbstractEventLoop, previous: dict[int, Any]) -> None:
        self.previous = previous
        self._runs = runs
        self._loop = loop
        self._draining: asyncio.Task[None] | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._signalled, number, frame)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self._draining is None:
            self._draining = self._loop.create_task(self._drain(number, frame))
            return
        self._draining.cancel()
        self._runs.end_all(ShuttingDown())
        _stop(self.previous[number], number, frame)

    async def _drain(self, number: int, frame: FrameType | None) -> None:
        await self._runs.drain()
        _stop(self.previous[number], number, frame)


def _stop(handler: Any, number: int, frame: FrameType | None) -> None:
    server: Any = getattr(handler, "__self__", None)
    if getattr(server, "should_exit", None) is False:
        server.should_exit = True  # uvicorn: its own handler would end the process by the signal, not with 0
    elif callable(handler):
        handler(number, frame)


def collect_what_is_new(threshold: int) -> None:
    """Leaves out from here on what was loaded, and sets how often the rest is looked through.

    What was loaded stays: with it, the longest gap in streams is five times as long. Once per process; a server in a
    thread of another program leaves that program's collector alone.

    Args:
        threshold: objects made between two rounds; 0: none.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()
    gc.set_threshold(threshold, *gc.get_threshold()[1:])
    gc.enable()  # the command line loads without it
