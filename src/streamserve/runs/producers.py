"""Tasks that iterate chains, once nobody waits for them any more: what they failed of, and what that still holds."""

from __future__ import annotations

import asyncio
import traceback

# A task that nobody refers to may vanish before its end.
_abandoned: set[asyncio.Task[None]] = set()


def outlive(producer: asyncio.Task[None]) -> None:
    """Lets a task that ignores its cancellation come to its end after its run."""
    _abandoned.add(producer)
    producer.add_done_callback(_forget)


def _forget(late: asyncio.Task[None]) -> None:
    _abandoned.discard(late)
    release(cause_of(late))


def cause_of(ended: asyncio.Task[None]) -> BaseException | None:
    """What a task failed of, if it did; a cancellation counts."""
    try:
        ended.result()
    except BaseException as cause:
        return cause
    return None


def release(error: BaseException | None) -> None:
    """Drops what the frames of a failed chain hold, so that a sync model's generator closes now, not at the next
    garbage collection."""
    seen: set[int] = set()
    pending = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        traceback.clear_frames(current.__traceback__)
        pending += [current.__cause__, current.__context__]
