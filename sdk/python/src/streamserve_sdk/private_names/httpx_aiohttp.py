"""httpx-aiohttp: the `_aiohttp_response` of a body. Without it, the body is read through two more iterators."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import httpx

Read = Callable[[], Awaitable[bytes]]


def reader(body: httpx.AsyncByteStream) -> Read:
    """Return a function that reads the next bytes of a body; it returns no bytes at the end.

    Args:
        body: the body of a response, as httpx-aiohttp made it.
    """
    content = getattr(getattr(body, "_aiohttp_response", None), "content", None)
    read = getattr(content, "readany", None)
    return cast("Read", read) if read is not None else _reader_of(aiter(body))


def _reader_of(parts: AsyncIterator[bytes]) -> Read:
    async def read() -> bytes:
        return await anext(parts, b"")

    return read
