"""The `openai` package's aiohttp client, one for each event loop: its connections are bound to theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import cache
from importlib.util import find_spec
from typing import Any
from weakref import WeakKeyDictionary

from openai import DefaultAioHttpClient, DefaultAsyncHttpxClient


class LoopBoundClient(DefaultAsyncHttpxClient):
    """A client that sends through a client of the running event loop, which ends with its loop.

    Args:
        trust_env: whether the environment's proxies are used (default true).
    """

    def __init__(self, *, trust_env: bool = True) -> None:
        super().__init__(trust_env=trust_env)
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Clients] = WeakKeyDictionary()

    async def send(self, *args: Any, **kwargs: Any) -> Any:
        """Sends a request and gives its response, as every client does."""
        client = await self._of(asyncio.get_running_loop())
        return await client.send(*args, **kwargs)

    async def _of(self, loop: asyncio.AbstractEventLoop) -> DefaultAsyncHttpxClient:
        if loop not in self._loops:
            clients = self._opened(loop)
            self._loops[loop] = (clients, await anext(clients))
        return self._loops[loop][1]

    async def _opened(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[DefaultAsyncHttpxClient, None]:
        # An event loop closes the asynchronous generators that it has seen before it ends.
        client = DefaultAioHttpClient(trust_env=self.trust_env)
        try:
            yield client
        finally:
            self._loops.pop(loop, None)
            await client.aclose()


_Clients = tuple[AsyncGenerator[DefaultAsyncHttpxClient, None], DefaultAsyncHttpxClient]


@cache
def aiohttp_client(*, trust_env: bool = True) -> LoopBoundClient:
    """The process's client for requests over aiohttp.

    Args:
        trust_env: whether the environment's proxies are used (default true).

    Raises:
        ModuleNotFoundError: aiohttp is not installed.
    """
    if find_spec("aiohttp") is None:
        raise ModuleNotFoundError("STREAMSERVE_OPENAI_TRANSPORT=aiohttp needs: pip install 'streamserve[aiohttp]'")
    return LoopBoundClient(trust_env=trust_env)
