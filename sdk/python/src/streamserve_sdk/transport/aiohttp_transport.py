"""Carry httpx's asynchronous calls over aiohttp, which takes less CPU per read. Needs httpx-aiohttp."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from httpx_aiohttp.transport import AiohttpResponseStream, map_aiohttp_exceptions
from yarl import URL

from streamserve_sdk.private_names.httpx_aiohttp import reader
from streamserve_sdk.transport.wire import BODY


def transport(context: ssl.SSLContext) -> httpx.AsyncBaseTransport:
    """Return a transport for one event loop.

    Args:
        context: the TLS settings of all connections.
    """

    def session() -> aiohttp.ClientSession:
        # A bound of connections would make stream 101 wait; httpx keeps the cookies.
        connector = aiohttp.TCPConnector(limit=0, ssl=context)
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    return WatchedTransport(verify=context, client=session)


class WatchedTransport(AiohttpTransport):
    """A transport that sends URLs as httpx writes them, and reads the time limit of a read at the body's first read."""

    def get_client(self) -> Any:
        """Return the session of all requests, made at the first one."""
        if not isinstance(self.client, _Session):
            self.client: Any = _Session(super().get_client())
        return self.client

    async def aclose(self) -> None:
        """Close the session."""
        if isinstance(self.client, _Session):
            await self.client.close()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return the head of its response, as the base class does."""
        limits = request.extensions.get("timeout", {})
        read = limits.get("read")
        try:
            response = await super().handle_async_request(request)
        except httpx.ConnectTimeout as error:
            # httpx-aiohttp's word for each lost connection; but only a connect that failed has sent nothing.
            if isinstance(error.__cause__, aiohttp.ClientConnectorError | aiohttp.ServerTimeoutError):
                raise
            raise httpx.ReadError(str(error)) from error
        assert isinstance(response.stream, AiohttpResponseStream)
        response.stream = response.extensions[BODY] = WatchedStream(response.stream, limits, read)
        return response


class _Session:
    """A session that takes URLs as they are: aiohttp would make `/a/b` of `/a/%2E/b`."""

    def __init__(self, inner: aiohttp.ClientSession) -> None:
        self._inner = inner
        self.close = inner.close

    def request(self, *, url: str, **options: Any) -> Any:
        return self._inner.request(url=URL(url, encoded=True), **options)


class WatchedStream(httpx.AsyncByteStream):
    """A body that fails when no bytes arrive for too long; all reads share one timer.

    Args:
        inner: the body as httpx-aiohttp made it.
        limits: httpx's time limits in seconds; they may change until the first read.
        known: the time limit of a read, in seconds, that aiohttp enforces itself.
    """

    def __init__(self, inner: AiohttpResponseStream, limits: dict[str, Any], known: float | None) -> None:
        self._inner = inner
        self._read = reader(inner)
        self._limits = limits
        self._known = known
        self._reader: asyncio.Task[Any] | None = None
        self._since = 0.0
        self._is_late = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body.

        Raises:
            httpx.ReadTimeout: no bytes arrived within the time limit.
        """
        limit = self._limits.get("read")
        with map_aiohttp_exceptions():
            if limit is None or limit == self._known:
                while data := await self._read():
                    yield data
                return
            loop = asyncio.get_running_loop()
            timer = _Timer(loop, limit, self._check)
            try:
                while True:
                    self._reader, self._since = asyncio.current_task(), loop.time()
                    try:
                        data = await self._read()
                    except asyncio.CancelledError:
                        if self._is_late and self._reader is not None and not self._reader.uncancel():
                            raise httpx.ReadTimeout(f"no bytes arrived for {limit:g} s") from None
                        raise
                    self._reader = None
                    if not data:
                        return
                    yield data
            finally:
                timer.stop()

    async def aclose(self) -> None:
        """Close the body."""
        await self._inner.aclose()

    def _check(self, now: float, limit: float) -> float:
        """Return the seconds to the next check; cancel a reader that has waited for too long."""
        if self._reader is None:
            return limit
        left = self._since + limit - now
        if left <= 0:
            self._is_late = True
            self._reader.cancel()
        return left


class _Timer:
    def __init__(self, loop: asyncio.AbstractEventLoop, limit: float, check: Any) -> None:
        self._loop = loop
        self._limit = limit
        self._check = check
        self._handle = loop.call_later(limit, self._ring)

    def stop(self) -> None:
        self._handle.cancel()

    def _ring(self) -> None:
        left = self._check(self._loop.time(), self._limit)
        if left > 0:
            self._handle = self._loop.call_later(left, self._ring)
