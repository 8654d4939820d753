"""Abandoned producer tasks: collect the exceptions of the tasks and free their frames."""

import asyncio
import traceback
from typing import Any

# The attributes of BaseException itself: the class of a chain's exception may have code under their names.
_TRACEBACK: Any = BaseException.__dict__["__traceback__"]
_LINKS: list[Any] = [BaseException.__dict__[name] for name in ("__cause__", "__context__")]

# The event loop keeps weak references only: a task without another reference may be collected before its end.
_abandoned: set[asyncio.Task[None]] = set()


def abandon(producer: asyncio.Task[None]) -> None:
    """Let a task that ignores its cancellation end after its run."""
    _abandoned.add(producer)
    producer.add_done_callback(_collect)


def _collect(late: asyncio.Task[None]) -> None:
    _abandoned.discard(late)
    free_frames(exception_of(late))


def exception_of(ended: asyncio.Task[None]) -> BaseException | None:
    """Return the exception that a task ended with, CancelledError included, or None."""
    try:
        ended.result()
    except BaseException as cause:
        return cause
    return None


def free_frames(error: BaseException | None) -> None:
    """Free the frames of a failed chain, so that a sync model's generator closes now.

    Without this it would close at the next garbage collection.
    """
    seen: set[int] = set()
    pending = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        traceback.clear_frames(_TRACEBACK.__get__(current))
        pending += [link.__get__(current) for link in _LINKS]
