"""Many calls of which so many run at once; after a failure none runs on, as it would after asyncio.gather."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any


async def at_once(bounds: Iterable[int | None], call: Callable[[int], Awaitable[Any]], count: int) -> list[Any]:
    """Return the results of `call(0)` to `call(count - 1)`; the first failure cancels the others and is raised.

    Args:
        bounds: how many may run at once; the lowest counts, and None is no bound.
    """
    places = asyncio.Semaphore(min(filter(None, bounds), default=max(count, 1)))

    async def one(index: int) -> Any:
        async with places:
            return await call(index)

    tasks = [asyncio.ensure_future(one(index)) for index in range(count)]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
