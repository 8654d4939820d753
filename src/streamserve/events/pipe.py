"""A pipe from a producer task to an iterating reader, filled from any OS thread."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

# Items by which a producer may be ahead of a slow reader: enough for a burst, and a bound for memory.
AHEAD = 256


class Pipe:
    """A queue of items, made in the event loop of its reader."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._filled = asyncio.Event()
        self._room = asyncio.Event()

    def put(self, item: Any) -> None:
        """Add an item, from any OS thread."""
        if threading.get_ident() == self._thread:
            self._add(item)
        else:
            self._loop.call_soon_threadsafe(self._add, item)

    def _add(self, item: Any) -> None:
        self._items.append(item)
        self._filled.set()

    async def room(self) -> None:
        """Wait until the reader has caught up."""
        while len(self._items) >= AHEAD:
            self._room.clear()
            await self._room.wait()

    async def get(self) -> Any:
        """Return the next item as soon as there is one."""
        while not self._items:
            self._filled.clear()
            await self._filled.wait()
        self._room.set()
        return self._items.popleft()


_END = object()


async def pipe_from(fill: Callable[[Pipe], Coroutine[Any, Any, None]]) -> AsyncGenerator[Any]:
    """Yield the items that `fill` puts into a pipe, until it returns.

    Args:
        fill: the producer, which runs in a task of its own; it is cancelled when its reader leaves, and its
            exceptions are raised here.
    """
    pipe = Pipe()
    task = asyncio.create_task(_filled(pipe, fill))
    try:
        while (item := await pipe.get()) is not _END:
            yield item
        await task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _filled(pipe: Pipe, fill: Callable[[Pipe], Coroutine[Any, Any, None]]) -> None:
    try:
        await fill(pipe)
    finally:
        pipe.put(_END)
