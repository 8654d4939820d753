"""The tasks of chains. Code that calls `exit` ends its task; it does not end the worker.

asyncio passes SystemExit and KeyboardInterrupt on from a task to the event loop, which ends all streams of the worker.
"""

import asyncio
from collections.abc import Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any

from streamserve.call import current_call


class Exited(BaseException):
    """A chain's SystemExit or KeyboardInterrupt, outside the task that raised it.

    Not an Exception: retries and fallbacks take it for a step's failure as little as they do in process.
    """

    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")


@contextmanager
def contained(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Keep the event loop alive inside the `with` block if a task of a request exits.

    The applications of one event loop share a factory: two would both wrap a task, which then cannot begin.
    """
    factory = loop.get_task_factory()
    if not isinstance(factory, _Factory):
        factory = _Factory(factory)
        loop.set_task_factory(factory)
    factory.users += 1
    try:
        yield
    finally:
        factory.users -= 1
        if not factory.users:
            loop.set_task_factory(factory.before)


def is_cancellation(error: BaseException) -> bool:
    """Return True for the cancellation of the current task; a chain may raise CancelledError without one."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _task(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    return asyncio.Task(work, loop=loop, **options)


class _Factory:
    def __init__(self, before: Any) -> None:
        self.before = before
        self.users = 0
        self._make = before or _task

    def __call__(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
        return self._make(loop, work if current_call.get() is None else _Contained(work), **options)


class _Contained(Coroutine[Any, Any, Any]):
    """A coroutine whose exit ends itself only. It has the state of the other, which anyio reads."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self._work = work

    def send(self, value: Any) -> Any:
        try:
            return self._work.send(value)
        except (SystemExit, KeyboardInterrupt) as error:
            raise Exited(error) from error

    def throw(self, *error: Any) -> Any:
        try:
            return self._work.throw(*error)
        except (SystemExit, KeyboardInterrupt) as left:
            raise Exited(left) from left

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._work.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)
