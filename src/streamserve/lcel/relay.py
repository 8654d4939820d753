"""Relay: iterates a stream in another context, within the same task."""

from __future__ import annotations

import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Self

_MOVED: Any = object()
_ENDED: Any = object()


class Relay:
    """Iterates a stream in a context; a task per item would do so too, at the cost of a turn of the event loop.

    The stream's loop is a coroutine that is sent to by hand: what it gives out is either `_MOVED`, when there is a
    chunk, or a future, which is handed on to the task.

    Args:
        stream: to iterate.
        context: in which the stream's code runs.
    """

    __slots__ = ("_error", "_loop", "_pending", "_run", "_send", "chunk")

    def __init__(self, stream: AsyncIterator[Any], context: Context) -> None:
        self.chunk: Any = None
        self._loop: Coroutine[Any, Any, None] = self._iterate(stream)
        self._run, self._send = context.run, self._loop.send
        self._pending: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._loop.close)

    def moved(self) -> bool:
        """Whether there was a next chunk without waiting."""
        return self._resumed(self._send, None)

    @types.coroutine
    def waited(self) -> Generator[Any, Any, bool]:
        """Waits for the next chunk; False at the stream's end."""
        while self._pending is not _ENDED:
            try:
                sent = yield self._pending
            except GeneratorExit:
                raise
            except BaseException as error:
                moved = self._resumed(self._loop.throw, error)
            else:
                moved = self._resumed(self._send, sent)
            if moved:
                return True
        return False

    def _resumed(self, resume: Callable[[Any], Any], value: Any) -> bool:
        try:
            self._pending = self._run(resume, value)
        except StopIteration:
            self._pending = _ENDED
        return self._pending is _MOVED

    async def _iterate(self, stream: AsyncIterator[Any]) -> None:
        async for self.chunk in stream:
            await _move()


@types.coroutine
def _move() -> Generator[Any, None, None]:
    yield _MOVED
