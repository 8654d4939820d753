"""A network without sockets: httpx's requests reach an ASGI application, and every connection may fail."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import httpx

if TYPE_CHECKING:
    from tests.simulation.workers import Worker

# Virtual seconds that a message takes, at most.
LATENCY = 0.01
# Bytes on their way to a client above which the server waits, as uvicorn does.
HIGH_WATER = 64 * 2**10


@dataclass
class Weather:
    """The probabilities of what may happen to one connection.

    Args:
        cut: it breaks at a random moment.
        lost_tail: it breaks after the server has sent all, and the last bytes never arrive.
        repeated: a proxy sends the request a second time, and drops the second answer.
        buffered: a proxy holds the answer's bytes back for a while.
        stalled: the client reads nothing for a while.
        refused: no connection comes about.
    """

    cut: float = 0.0
    lost_tail: float = 0.0
    repeated: float = 0.0
    buffered: float = 0.0
    stalled: float = 0.0
    refused: float = 0.0


CALM = Weather()
# Virtual seconds of a broken connection's life, of a hold and of a stall, at most.
CUT_WITHIN, HELD, STALLED = 0.6, 1.0, 2.0


class Connection:
    """One request and its answer, between a client and a worker."""

    def __init__(self, worker: Worker, scope: dict[str, Any], body: bytes, random: Random) -> None:
        self.worker = worker
        self.head: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.finished = self.broken = False
        self._random = random
        self.path: str = scope["path"]
        self._scope, self._body = scope, body
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._changed = asyncio.Event()
        self._gone = asyncio.Event()
        self._drained = asyncio.Event()
        self.held_until = 0.0
        self.loses_tail = False
        self.task = worker.serve(self._scope, self._receive, self._send, self._served)

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None  # type: ignore[assignment]
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if self.broken:
            return
        if message["type"] == "http.response.start":
            self.head.set_result(message)
            return
        self._waiting.append(message.get("body", b""))
        self._size += len(message.get("body", b""))
        if not message.get("more_body", False):
            if self.loses_tail:
                self._lose_tail()
                return
            self.finished = True
            self._gone.set()
        self._changed.set()
        while self._size > HIGH_WATER and not self.broken and not self.finished:
            self._drained.clear()
            await self._drained.wait()

    def _lose_tail(self) -> None:
        tail = self._waiting.pop()
        if tail:
            self._waiting.append(tail[: self._random.randrange(len(tail))])
        self.cut()

    def _served(self, task: asyncio.Task[Any]) -> None:
        if not self.finished:
            self.cut()

    def cut(self) -> None:
        """Break the connection: both sides notice."""
        self.broken = True
        self._gone.set()
        self._changed.set()
        self._drained.set()
        if not self.head.done():
            self.head.set_exception(httpx.RemoteProtocolError("the connection broke before an answer"))
            self.head.exception()

    async def read(self) -> bytes | None:
        """Return the next bytes, or None at the end.

        Raises:
            httpx.ReadError: the connection broke.
        """
        loop = asyncio.get_running_loop()
        while True:
            if (left := self.held_until - loop.time()) > 0:
                await asyncio.sleep(left)
            if self._waiting:
                await asyncio.sleep(self._random.random() * LATENCY)
                return self._take()
            if self.broken:
                raise httpx.ReadError("the connection broke")
            if self.finished:
                return None
            self._changed.clear()
            await self._changed.wait()

    def _take(self) -> bytes:
        # TCP keeps no boundaries: several writes may arrive as one, and one as several.
        data = self._waiting.popleft()
        while self._waiting and self._random.random() < 0.5:
            data += self._waiting.popleft()
        if len(data) > 1 and self._random.random() < 0.3:
            place = self._random.randrange(1, len(data))
            data, rest = data[:place], data[place:]
            self._waiting.appendleft(rest)
        self._size -= len(data)
        self._drained.set()
        return data


class _Body(httpx.AsyncByteStream):
    def __init__(self, connection: Connection, limit: float | None) -> None:
        self._connection, self._limit = connection, limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(self._limit):
                    data = await self._connection.read()
            except TimeoutError as error:
                raise httpx.ReadTimeout("no byte") from error
            if data is None:
                return
            yield data

    async def aclose(self) -> None:
        if not self._connection.finished:
            self._connection.cut()


class Network(httpx.AsyncBaseTransport):
    """The transport of a client.

    Args:
        random: the source of every choice.
        weather: what may happen to a connection.
        choose: returns the worker that gets a request, or None if none listens.
        connected: called with each new connection.
    """

    def __init__(
        self,
        random: Random,
        weather: Weather,
        choose: Callable[[], Worker | None],
        connected: Callable[[Connection], None] = lambda _connection: None,
    ) -> None:
        self.weather = weather
        self._random = random
        self._choose = choose
        self._connected = connected
        self.connections: list[Connection] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Carry a request to a worker, and return its answer."""
        body = await request.aread()
        await asyncio.sleep(self._random.random() * LATENCY)
        worker = self._choose()
        if worker is None or self._happens(self.weather.refused):
            raise httpx.ConnectError("refused")
        connection = self._connect(worker, request, body)
        if self._happens(self.weather.repeated):
            again = self._choose()
            if again is not None:
                self._drop_later(self._connect(again, request, body))
        self._disturb(connection)
        limit = request.extensions.get("timeout", {}).get("read")
        try:
            async with asyncio.timeout(limit):
                head = await asyncio.shield(connection.head)
        except TimeoutError as error:
            connection.cut()
            raise httpx.ReadTimeout("no head") from error
        except BaseException:
            connection.cut()
            raise
        return httpx.Response(head["status"], headers=head["headers"], stream=_Body(connection, limit))

    def _connect(self, worker: Worker, request: httpx.Request, body: bytes) -> Connection:
        url = request.url
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": unquote(url.raw_path.split(b"?")[0].decode()),
            "raw_path": url.raw_path.split(b"?")[0],
            "query_string": url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
            "state": {},
        }
        connection = Connection(worker, scope, body, self._random)
        self.connections.append(connection)
        self._connected(connection)
        return connection

    def _happens(self, probability: float) -> bool:
        return self._random.random() < probability

    def _disturb(self, connection: Connection) -> None:
        loop, weather = asyncio.get_running_loop(), self.weather
        if self._happens(weather.cut):
            loop.call_later(self._random.random() * CUT_WITHIN, connection.cut)
        if self._happens(weather.lost_tail):
            connection.loses_tail = True
        if self._happens(weather.buffered):
            connection.held_until = loop.time() + self._random.random() * HELD
        if self._happens(weather.stalled):
            connection.held_until = loop.time() + self._random.random() * STALLED

    def _drop_later(self, connection: Connection) -> None:
        asyncio.get_running_loop().call_later(self._random.random() * LATENCY, connection.cut)
