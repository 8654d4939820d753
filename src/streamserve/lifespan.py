"""The life of an application's runs: open the stores, run the reaper, and drain the runs after SIGTERM.

It is as long as the application's lifespan. An application whose lifespan does not run, such as a mounted one, starts
with its first request.
"""

import asyncio
import gc
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from types import FrameType
from typing import Any

from fastapi import FastAPI

from streamserve.api.services import Services, services_in
from streamserve.errors import ShuttingDown
from streamserve.private_names.uvicorn import stop_server
from streamserve.runs.chain_tasks import contained
from streamserve.runs.runs import Runs
from streamserve.runs.sync_threads import SyncCallExecutor

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open what the application needs, and close it at the end; FastAPI's lifespan of a whole server."""
    services = services_in(app)
    services.auth.require_private()
    async with running(services):
        freeze_garbage_collector(services.settings.gc_threshold)
        yield


@asynccontextmanager
async def running(services: Services) -> AsyncIterator[None]:
    """Keep the runs of an application under way inside the `with` block, unless another block does already."""
    loop, runs = asyncio.get_running_loop(), services.runs
    if loop in services.loops:
        await services.loops[loop]
        yield
        return
    opened = services.loops[loop] = loop.create_future()
    try:
        with contained(loop):
            async with services.checkpoints.opened(), services.telemetry.measuring(runs), _running(runs):
                opened.set_result(None)
                try:
                    yield
                finally:
                    await services.limits.close()
    except BaseException as error:
        if not opened.done():
            opened.set_exception(error)
            opened.exception()  # others may wait for it, or nobody
        raise
    finally:
        del services.loops[loop]


async def ensure_running(services: Services) -> None:
    """Start the runs of an application whose lifespan does not run; they end with the event loop.

    Raises:
        Exception: a store cannot be opened.
    """
    loop = asyncio.get_running_loop()
    if loop not in services.loops:
        keeper = asyncio.create_task(_keep(services))
        _keepers.add(keeper)
        keeper.add_done_callback(_keepers.discard)
        await asyncio.sleep(0)
    if not (opened := services.loops[loop]).done():
        await asyncio.shield(opened)


_keepers: set[asyncio.Task[None]] = set()


async def _keep(services: Services) -> None:
    try:
        async with running(services):
            await asyncio.Event().wait()  # `asyncio.run` cancels it, and waits
    except Exception:
        logger.exception("the runs cannot start")


@asynccontextmanager
async def _running(runs: Runs) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(SyncCallExecutor(runs.settings.threads, "chain"))
    runs.reopen()
    await runs.store.open()
    reaper = asyncio.create_task(runs.reaper.run())
    try:
        with _drain_on_signal(runs, loop):
            yield
    finally:
        await runs.drain()
        reaper.cancel()
        with suppress(asyncio.CancelledError):
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
    """Drain at the first signal, then let the server stop; at a second signal, end the runs and stop it now.

    A server that stops closes its port at once: /readyz could not tell a load balancer that it drains.
    """

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
    # The server's own handler would end the process by the signal, not with 0.
    if handler is signal.SIG_DFL:
        signal.signal(number, handler)
        os.kill(os.getpid(), number)
    elif not stop_server(handler) and callable(handler):
        handler(number, frame)


def freeze_garbage_collector(threshold: int) -> None:
    """Leave all objects that exist now out of garbage collection, and set how often newer ones are collected.

    The modules stay for ever, and with them in a collection the longest gap in streams is five times as long. This
    happens once per process; a server in a thread of another program leaves that program's collector alone.

    The threshold is the number of new objects between two collections; 0: no collections.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if not gc.get_freeze_count():
        # Without a collection before it, which takes a quarter of a second and finds 3,000 small objects.
        gc.freeze()
    gc.set_threshold(threshold, *gc.get_threshold()[1:])
    gc.enable()  # the command line loads without it
