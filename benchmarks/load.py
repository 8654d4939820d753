"""The load client: bare sockets in a process of its own, so that its small cost is no part of a server's."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import uvloop

from benchmarks.servers.fleet import core
from benchmarks.servers.memory import allow_files
from benchmarks.workload import HELD, Order, body_of

LIMIT = 120.0
OPENED_A_SECOND = 200
T = TypeVar("T")


class Burst(NamedTuple):
    """The result of streams that were read to their ends."""

    tokens: int
    bytes: int
    seconds: float


class Paced(NamedTuple):
    """The result of paced streams in a window: the share of the tokens due, and gaps between tokens in seconds."""

    share: float
    gap_p99: float
    gap_longest: float


class Stream(asyncio.Protocol):
    """One request and its answer: numbers of tokens and bytes, and times of arrival if wanted."""

    def __init__(self, request: bytes, keeps: bool, mark: bytes) -> None:
        self.tokens = 0
        self.bytes = 0
        self.moments: list[float] = []
        self.first: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._keeps = keeps
        self._mark = mark
        self._tail = b""
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.began = time.perf_counter()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)
        data = self._tail + data
        self._tail = data[1 - len(self._mark) :]
        found = data.count(self._mark)
        if not found:
            return
        self.tokens += found
        now = time.perf_counter()
        if not self.first.done():
            self.first.set_result(now - self.began)
        if self._keeps:
            self.moments.extend([now] * found)

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
        if not self.first.done():
            self.first.cancel()


class Client:
    """A client that loads servers from another process.

    Args:
        pool: pool of one process.
    """

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def burst(self, port: int, chain: str, order: Order, streams: int) -> Burst:
        """Read streams to their ends, all at once."""
        return self._do(_burst, port, chain, order, streams)

    def calls(self, port: int, chain: str, order: Order, connections: int, times: int) -> int:
        """Call /invoke some times on each of so many connections; return the number of tokens in the answers."""
        return self._do(_calls, port, chain, order, connections, times)

    def paced(self, port: int, chain: str, rate: float, streams: int, window: float) -> Paced:
        """Read paced streams for some seconds, once all have begun."""
        return self._do(_paced, port, chain, rate, streams, window)

    def first_tokens(self, port: int, chain: str, rate: float, streams: int, probes: int) -> list[float]:
        """Return seconds to the first token of requests, one after the other, beside `streams` - 1 open streams."""
        return self._do(_first_tokens, port, chain, rate, streams, probes)

    def held(self, port: int, chain: str, count: int, streams: int) -> int:
        """Return resident bytes of a server that has sent all tokens of streams which do not end."""
        return self._do(_held, port, chain, count, streams)

    def _do(self, work: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
        return self._pool.submit(_run, work, arguments).result()


@contextmanager
def client() -> Iterator[Client]:
    """Start the client's process; stop it with the block."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_start) as pool:
        yield Client(pool)


def _start() -> None:
    core(of_servers=False)
    allow_files(8192)


def _run(work: Callable[..., Coroutine[Any, Any, T]], arguments: tuple[Any, ...]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(LIMIT):
            return await work(*arguments)

    return uvloop.run(limited())


def _request(path: str, body: dict[str, Any], connection: str) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: {connection}\r\nContent-Length: {len(data)}\r\n"
    # LangServe knows no patches and ignores the parameter.
    kinds = "Content-Type: application/json\r\nAccept: text/event-stream; patch=append\r\n\r\n"
    return (head + kinds).encode() + data


# What each chunk has once, if it is not the name of its event; a patch has another name than a whole chunk.
_MARKS = {"runs": b"event: messages", "json": b"\ndata: "}


async def _open(port: int, chain: str, order: Order, keeps: bool = False) -> Stream:
    request = _request(f"/{chain}/stream", body_of(chain, order), "close")
    loop = asyncio.get_running_loop()
    mark = _MARKS.get(chain, b"event: data")
    _, stream = await loop.create_connection(lambda: Stream(request, keeps, mark), "127.0.0.1", port)
    return stream


async def _burst(port: int, chain: str, order: Order, streams: int) -> Burst:
    began = time.perf_counter()
    opened = await asyncio.gather(*(_open(port, chain, order) for _ in range(streams)))
    await asyncio.gather(*(stream.ended for stream in opened))
    seconds = time.perf_counter() - began
    return Burst(sum(stream.tokens for stream in opened), sum(stream.bytes for stream in opened), seconds)


async def _calls(port: int, chain: str, order: Order, connections: int, times: int) -> int:
    request = _request(f"/{chain}/invoke", body_of(chain, order), "keep-alive")

    async def one() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        words = 0
        for _ in range(times):
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
            words += json.loads(await reader.readexactly(length))["output"].count(" ")
        writer.close()
        return words

    return sum(await asyncio.gather(*(one() for _ in range(connections))))


async def _paced(port: int, chain: str, rate: float, streams: int, window: float) -> Paced:
    opened = await _begun(port, chain, rate, streams, 600.0)
    await asyncio.sleep(0.5)
    for stream in opened:
        stream.moments.clear()
    await asyncio.sleep(window)
    moments = [list(stream.moments) for stream in opened]
    _leave(opened)
    gaps = [after - before for each in moments for before, after in pairwise(each)]
    share = sum(map(len, moments)) / (streams * rate * window)
    if len(gaps) < 2 or min(map(len, moments)) < 2:
        return Paced(share, window, window)
    return Paced(share, statistics.quantiles(gaps, n=100)[98], max(gaps))


async def _begun(port: int, chain: str, rate: float, streams: int, seconds: float) -> list[Stream]:
    order = Order(round(rate * seconds), f"{rate:g}")
    opened = []
    for _ in range(streams):  # spread over time, so that their tokens are too
        opened.append(await _open(port, chain, order, keeps=True))
        await asyncio.sleep(1 / OPENED_A_SECOND)
    await asyncio.gather(*(stream.first for stream in opened))
    return opened


async def _first_tokens(port: int, chain: str, rate: float, streams: int, probes: int) -> list[float]:
    beside = await _begun(port, chain, rate, streams - 1, 600.0)
    found = []
    for _ in range(probes):
        stream = await _open(port, chain, Order(3, "hot"))
        found.append(await stream.first)
        await stream.ended
    _leave(beside)
    return found


async def _held(port: int, chain: str, count: int, streams: int) -> int:
    opened = await asyncio.gather(*(_open(port, chain, Order(count, HELD)) for _ in range(streams)))
    while sum(stream.tokens for stream in opened) < count * streams:  # noqa: ASYNC110  # an event would cost per token
        await asyncio.sleep(0.02)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /bench/memory HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    _leave(opened)
    return int(answer.partition(b"\r\n\r\n")[2])


def _leave(streams: Sequence[Stream]) -> None:
    for stream in streams:
        stream.transport.abort()
