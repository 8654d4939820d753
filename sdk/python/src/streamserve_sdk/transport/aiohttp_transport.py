"""aiohttp under httpx's interface, for asynchronous calls, which takes less CPU per read. Needs httpx-aiohttp."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from httpx_aiohttp.transport import AiohttpResponseStream, map_aiohttp_exceptions

from streamserve_sdk.private_names.httpx_aiohttp import reader
from streamserve_sdk.transport.wire import BODY


def transport(context: ssl.SSLContext) -> httpx.AsyncBaseTransport:
    """Return a transport for one event loop.

    Args:
        context: of TLS.
    """

    def session() -> aiohttp.ClientSession:
        # Without a bound of connections, as stream 101 must not wait; cookies are httpx's.
        connector = aiohttp.TCPConnector(limit=0, ssl=context)
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    return WatchedTransport(verify=context, client=session)


class WatchedTransport(AiohttpTransport):
    """Takes the limit of silence when the body's first byte is asked for, as httpx's own transport does."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As httpx's."""
        limits = request.extensions.get("timeout", {})
        read = limits.get("read")
        response = await super().handle_async_request(request)
        assert isinstance(response.stream, AiohttpResponseStream)
        response.stream = response.extensions[BODY] = WatchedStream(response.stream, limits, read)
        return response


class WatchedStream(httpx.AsyncByteStream):
    """A body that fails when it is silent for too long; one timer, however many reads.

    Args:
        inner: the body.
        limits: httpx's time limits, which may change until the first read.
        known: the limit of silence that aiohttp keeps by itself.
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
            httpx.ReadTimeout: it was silent for too long.
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
                            raise httpx.ReadTimeout(f"nothing came for {limit:g} s") from None
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
        """Return the seconds to the next check; a reader that waits for too long is cancelled."""
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
