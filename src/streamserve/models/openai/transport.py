"""The `openai` package's aiohttp client, one for each event loop because connections belong to their loop."""

import asyncio
from collections.abc import AsyncGenerator
from functools import cache
from importlib.util import find_spec
from typing import Any
from weakref import WeakKeyDictionary

import httpx
from openai import DefaultAioHttpClient, DefaultAsyncHttpxClient

from streamserve.errors.providers import names_of


class LoopBoundClient(DefaultAsyncHttpxClient):
    """An HTTP client that delegates to a client of the running event loop and closes it with the loop.

    A failure of the connection is a `ConnectError`. The aiohttp client itself reports it as a timeout, or passes on an
    exception of aiohttp that the `openai` package does not retry.
    """

    def __init__(self, *, trust_env: bool = True) -> None:
        super().__init__(trust_env=trust_env)
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Clients] = WeakKeyDictionary()

    async def send(self, *args: Any, **kwargs: Any) -> Any:
        client = await self._client_of(asyncio.get_running_loop())
        try:
            return await _send(client, *args, **kwargs)
        except Exception as error:
            if _is_of_connection(error):
                raise httpx.ConnectError(str(error)) from error
            raise

    async def _client_of(self, loop: asyncio.AbstractEventLoop) -> DefaultAsyncHttpxClient:
        if loop not in self._loops:
            clients = self._open(loop)
            self._loops[loop] = (clients, await anext(clients))
        return self._loops[loop][1]

    async def _open(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[DefaultAsyncHttpxClient, None]:
        # An event loop closes its asynchronous generators before it ends, and so this client.
        client = DefaultAioHttpClient(trust_env=self.trust_env)
        try:
            yield client
        finally:
            self._loops.pop(loop, None)
            await client.aclose()


async def _send(client: DefaultAsyncHttpxClient, *args: Any, **kwargs: Any) -> Any:
    try:
        return await client.send(*args, **kwargs)
    except Exception as error:
        if not _was_unsent(error):
            raise
    # The server closed the idle connection at that moment: it never had the whole request, so it runs once.
    return await client.send(*args, **kwargs)


def _was_unsent(error: BaseException | None) -> bool:
    while error is not None and type(error).__name__ != "ClientConnectionResetError":
        error = error.__cause__
    return error is not None


def _is_of_connection(error: Exception) -> bool:
    found = next((cause for cause in (error, error.__cause__) if cause and names_of(cause, {"aiohttp"})), None)
    return found is not None and not isinstance(found, TimeoutError)


_Clients = tuple[AsyncGenerator[DefaultAsyncHttpxClient, None], DefaultAsyncHttpxClient]


@cache
def aiohttp_client(*, trust_env: bool = True) -> LoopBoundClient:
    """Return the process's client for requests over aiohttp, with the environment's proxies or without.

    Raises:
        ModuleNotFoundError: aiohttp is not installed.
    """
    if find_spec("aiohttp") is None:
        raise ModuleNotFoundError("STREAMSERVE_OPENAI_TRANSPORT=aiohttp needs: pip install 'streamserve[aiohttp]'")
    return LoopBoundClient(trust_env=trust_env)
