"""Many calls of which so many run at once; after a failure none runs on, as it would after asyncio.gather."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from langchain_core.runnables import Runnable, RunnableSequence
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.configurable import DynamicRunnable


async def at_once(bounds: Iterable[int | None], call: Callable[[int], Awaitable[Any]], count: int) -> list[Any]:
    """Return the results of `call(0)` to `call(count - 1)`; the first failure cancels the others and is raised.

    Args:
        bounds: how many may run at once; the lowest counts, and None is no bound.
    """
    places = asyncio.Semaphore(min(filter(None, bounds), default=max(count, 1)))

    async def one(index: int) -> Any:
        async with places:
            return await call(index)

    tasks: list[asyncio.Future[Any]] = []
    try:
        for index in range(count):
            tasks.append(asyncio.ensure_future(one(index)))
            # Hundreds of calls that begin in one round of the event loop would hold it.
            await asyncio.sleep(0)
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def has_own_batch(runnable: Runnable[Any, Any]) -> bool:
    """Return whether a chain does more for a batch than to call itself for each input, as completion models do."""
    if isinstance(runnable, RunnableSequence):
        return any(map(has_own_batch, runnable.steps))
    own = type(runnable).abatch
    if isinstance(runnable, DynamicRunnable) and own is DynamicRunnable.abatch:
        options = [runnable.default, *getattr(runnable, "alternatives", {}).values()]
        return any(not isinstance(option, Runnable) or has_own_batch(option) for option in options)
    if isinstance(runnable, RunnableBindingBase) and own is RunnableBindingBase.abatch:
        return has_own_batch(runnable.bound)
    return own is not Runnable.abatch
