"""The processes of a simulated world, which may be killed, frozen and woken: workers with the real application, and the
process of the clients.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any

from fastapi import FastAPI

from streamserve.api.services import Services, install
from streamserve.lifespan import lifespan
from streamserve.runs.runs import Runs
from tests.simulation.loop import PROCESS, SimulatedLoop

# Tasks that live as long as their process.
ENDLESS = re.compile(r"forever$|^_repeat$|^Reaper\.run$")


class Client:
    """The process of all clients."""

    name = "client"

    def __init__(self, loop: SimulatedLoop) -> None:
        self.killed = self.frozen = self.was_frozen = False
        # Whether one of its tasks was cancelled, as by a user who leaves.
        self.left = False
        self._loop = loop
        self._dead: asyncio.Future[None] = loop.create_future()
        self._context: Context = copy_context()
        self._context.run(PROCESS.set, self)

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Carry out the work of the clients; return early if the process is killed."""
        task = self._loop.create_task(work, context=self._context.copy())
        await asyncio.wait({task, self._dead}, return_when=asyncio.FIRST_COMPLETED)
        await self._cancel_the_rest()
        if task.done() and not (task.cancelled() and self.left):
            task.result()

    async def _cancel_the_rest(self) -> None:
        # As asyncio.run does when a program ends.
        while left := [each for each in self._loop.tasks if each.process is self and not self.killed]:
            for each in left:
                each.cancel()
            await asyncio.wait({*left, self._dead}, return_when=asyncio.FIRST_COMPLETED)

    def kill(self) -> None:
        """End the process between two steps of its code."""
        self.killed = True
        if not self._dead.done():
            self._dead.set_result(None)

    def freeze(self) -> None:
        """Stop the process for a while; its connections stay open."""
        self.frozen = self.was_frozen = True

    def wake_up(self) -> None:
        """Continue a frozen process."""
        self.frozen = False
        self._loop.wake_up()


class Worker:
    """A worker process.

    Args:
        name: its name in traces.
        app: the application; it gets the services.
        services: the services of this life.
    """

    def __init__(self, loop: SimulatedLoop, name: str, app: FastAPI, services: Services) -> None:
        self.name = name
        self.killed = self.frozen = self.was_frozen = False
        self.listening = False
        self.services = services
        self.requests: set[asyncio.Task[Any]] = set()
        self._loop = loop
        self._app = app
        self._stopping = asyncio.Event()
        self._dead: asyncio.Future[None] = loop.create_future()
        self._context: Context = copy_context()
        self._context.run(PROCESS.set, self)
        install(app, services)
        self._life: asyncio.Task[None] | None = None
        # The tasks without end, by name, that were there when the worker began to listen.
        self.duties: Counter[str] = Counter()

    def _endless(self) -> Counter[str]:
        mine = [task for task in self._loop.tasks if task.process is self]
        return Counter(name for task in mine if ENDLESS.search(name := task.get_coro().__qualname__))

    @property
    def lost_duties(self) -> list[str]:
        """The names of tasks without end that have ended."""
        return sorted((self.duties - self._endless()).elements())

    @property
    def runs(self) -> Runs:
        """The runs of this process."""
        return self.services.runs

    @property
    def stopping(self) -> bool:
        """True once the process was told to stop."""
        return self._stopping.is_set()

    async def start(self) -> None:
        """Start the application, and wait until it listens."""
        ready = self._loop.create_future()
        self._life = self._loop.create_task(self._live(ready), context=self._context.copy())
        await ready

    async def _live(self, ready: asyncio.Future[None]) -> None:
        async with lifespan(self._app):
            self.duties = self._endless()
            assert self.duties["Reaper.run"], "the reaper has another name"
            self.listening = True
            ready.set_result(None)
            await self._stopping.wait()
            await self.runs.drain()
            self.listening = False
            # As uvicorn: the application ends after the last request.
            while self.requests:
                await asyncio.wait(set(self.requests))
        await self._loop.shutdown_default_executor()

    async def stop(self) -> None:
        """Stop as after SIGTERM, and wait for the end."""
        self._stopping.set()
        await self.stopped()

    async def stopped(self) -> None:
        """Wait for the end of a process that stops."""
        if self._life is not None:
            await asyncio.wait({self._life, self._dead}, return_when=asyncio.FIRST_COMPLETED)

    def kill(self) -> None:
        """End the process between two steps of its code."""
        self.killed, self.listening = True, False
        if not self._dead.done():
            self._dead.set_result(None)

    def freeze(self) -> None:
        """Stop the process for a while; its connections stay open."""
        self.frozen = self.was_frozen = True

    def wake_up(self) -> None:
        """Continue a frozen process."""
        self.frozen = False
        self._loop.wake_up()

    def serve(
        self, scope: dict[str, Any], receive: Any, send: Any, served: Callable[[asyncio.Task[Any]], None]
    ) -> asyncio.Task[Any]:
        """Begin to serve a request, as the server of this process; call `served` at its end."""

        async def serve() -> None:
            await self._app(scope, receive, send)

        scope["app"] = self._app
        task = self._loop.create_task(serve(), context=self._context.copy())
        self.requests.add(task)
        task.add_done_callback(served, context=self._context.copy())
        task.add_done_callback(self.requests.discard, context=self._context.copy())
        return task

    def call_soon(self, callback: Callable[..., object]) -> None:
        """Call a function as this process."""
        self._loop.call_soon(callback, context=self._context.copy())
