"""A wait that takes too long is cancelled; waits that do not, however many, are not."""

from __future__ import annotations

import asyncio

import pytest

from streamserve.models.openai.silence import Silence

LIMIT = 0.5


async def waited(silence: Silence, future: asyncio.Future[None]) -> str:
    silence.begin()
    try:
        await future
    except asyncio.CancelledError:
        if silence.is_over():
            return "too long"
        raise
    finally:
        silence.end()
    return "in time"


def after(seconds: float) -> asyncio.Future[None]:
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(seconds, lambda: future.done() or future.set_result(None))
    return future


async def test_a_wait_that_takes_too_long_is_over() -> None:
    async with asyncio.timeout(10):
        assert await waited(Silence(LIMIT), asyncio.get_running_loop().create_future()) == "too long"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_many_waits_may_take_longer_together() -> None:
    silence = Silence(LIMIT)
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() - began < 2 * LIMIT:
        assert await waited(silence, after(LIMIT / 5)) == "in time"
    assert await waited(silence, loop.create_future()) == "too long"


async def test_the_time_between_waits_does_not_count() -> None:
    silence = Silence(LIMIT)
    assert await waited(silence, after(0)) == "in time"
    await after(2 * LIMIT)
    assert await waited(silence, after(LIMIT / 2)) == "in time"
    assert await waited(silence, asyncio.get_running_loop().create_future()) == "too long"


async def test_a_cancellation_from_outside_goes_on() -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(waited(Silence(LIMIT), loop.create_future()))
    loop.call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_from_outside_goes_on_even_with_one_of_the_limit() -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(waited(Silence(0), loop.create_future()))
    loop.call_soon(lambda: loop.call_later(0, task.cancel))  # both in one turn, the limit's first
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_timer_of_nobody_who_waits_is_not_made_again() -> None:
    silence = Silence(LIMIT)
    assert await waited(silence, after(0)) == "in time"
    await after(1.5 * LIMIT)
    assert silence._timer is None
