"""One wait over the limit is cancelled; any number of shorter waits is not."""

from __future__ import annotations

import asyncio

import pytest

from streamserve.models.openai.idle_timeout import IdleTimeout

LIMIT = 0.5


async def waited(idle: IdleTimeout, future: asyncio.Future[None]) -> str:
    idle.begin()
    try:
        await future
    except asyncio.CancelledError:
        if idle.has_expired():
            return "too long"
        raise
    finally:
        idle.end()
    return "in time"


def after(seconds: float) -> asyncio.Future[None]:
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(seconds, lambda: future.done() or future.set_result(None))
    return future


async def test_a_wait_over_the_limit_expires() -> None:
    async with asyncio.timeout(10):
        assert await waited(IdleTimeout(LIMIT), asyncio.get_running_loop().create_future()) == "too long"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_many_waits_may_take_longer_together() -> None:
    idle = IdleTimeout(LIMIT)
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() - began < 2 * LIMIT:
        assert await waited(idle, after(LIMIT / 5)) == "in time"
    assert await waited(idle, loop.create_future()) == "too long"


async def test_the_time_between_waits_does_not_count() -> None:
    idle = IdleTimeout(LIMIT)
    assert await waited(idle, after(0)) == "in time"
    await after(2 * LIMIT)
    assert await waited(idle, after(LIMIT / 2)) == "in time"
    assert await waited(idle, asyncio.get_running_loop().create_future()) == "too long"


async def test_an_outside_cancellation_is_kept() -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(waited(IdleTimeout(LIMIT), loop.create_future()))
    loop.call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_outside_cancellation_wins_over_the_limit() -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(waited(IdleTimeout(0), loop.create_future()))
    loop.call_soon(lambda: loop.call_later(0, task.cancel))  # both in one turn, the limit's first
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_no_timer_is_started_without_a_wait() -> None:
    idle = IdleTimeout(LIMIT)
    assert await waited(idle, after(0)) == "in time"
    await after(1.5 * LIMIT)
    assert idle._timer is None
