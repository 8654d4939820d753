"""Tasks of chains that ended badly, or late: nothing is kept of them."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import suppress
from typing import Any

from streamserve.runs import producers
from streamserve.runs.producers import abandon, free_frames
from tests.runs.support import LIMIT


class Held:
    """A value that only a frame holds."""


def failure(held: list[weakref.ref[Held]]) -> Exception:
    """Return an exception whose frame holds a value."""

    def fail() -> None:
        local = Held()
        held.append(weakref.ref(local))
        raise ValueError("failed")

    try:
        fail()
    except ValueError as error:
        return error
    raise AssertionError


def test_frames_of_an_error_and_its_causes_are_freed() -> None:
    held: list[weakref.ref[Held]] = []
    first, second, third = (failure(held) for _ in range(3))
    first.__cause__, second.__context__, third.__cause__ = second, third, first  # a ring
    assert all(value() for value in held)
    free_frames(first)
    assert [value() for value in held] == [None] * 3


async def test_an_abandoned_task_is_kept_until_it_ends() -> None:
    late, complaints = asyncio.Event(), []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    held: list[weakref.ref[Held]] = []
    errors: list[Any] = []

    async def deaf() -> None:
        with suppress(asyncio.CancelledError):
            await late.wait()
        await late.wait()
        errors.append(failure(held))
        raise errors[0]

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    task.cancel()
    abandon(task)
    assert task in producers._abandoned
    late.set()
    await asyncio.wait({task}, timeout=LIMIT)
    await asyncio.sleep(0)
    assert (task in producers._abandoned, held[0]()) == (False, None)
    del task
    gc.collect()
    assert complaints == []
