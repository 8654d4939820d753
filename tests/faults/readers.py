"""Readers of a run that record every number they get, for a check afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import httpx
from streamserve_sdk import RemoteRunnable, RetryPolicy

from tests.faults.server import KEEPALIVE

# Attempts in a row without progress after which a raw reader gives up.
RAW_BUDGET = 200
RETRY = RetryPolicy(first=0.01, longest=0.5)

How = Literal["stream", "astream", "join", "ajoin", "raw"]


@dataclass
class Tally:
    """The numbers that one reader got, and those that it should have got."""

    how: str
    expected: range
    numbers: list[int] = field(default_factory=list)
    terminals: int = 0

    @property
    def lost(self) -> int:
        """Number of numbers that never came."""
        return len(set(self.expected) - set(self.numbers))

    @property
    def repeated(self) -> int:
        """Number of deliveries of a number that was already there."""
        return len(self.numbers) - len(set(self.numbers))

    @property
    def misordered(self) -> int:
        """Number of numbers that came after a larger one."""
        return sum(later < earlier for earlier, later in pairwise(self.numbers))

    @property
    def foreign(self) -> int:
        """Number of numbers that nobody sent."""
        return len(set(self.numbers) - set(self.expected))

    @property
    def flawless(self) -> bool:
        """True if every number came once, in order, with one end."""
        return self.numbers == list(self.expected) and self.terminals == 1


class Progress:
    """The progress of the first reader, told from any OS thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._marks: dict[int, asyncio.Future[None]] = {}
        self.run_id: asyncio.Future[str] = self._loop.create_future()

    def started(self, run_id: str) -> None:
        """Record the id of the run."""
        self._loop.call_soon_threadsafe(self.run_id.set_result, run_id)

    def mark(self, count: int) -> asyncio.Future[None]:
        """Return a future that is done when the first reader has `count` numbers."""
        future = self._marks.setdefault(count, self._loop.create_future())
        if count == 0 and not future.done():
            future.set_result(None)
        return future

    def reached(self, count: int) -> None:
        """Record that the first reader has `count` numbers."""
        if future := self._marks.get(count):
            self._loop.call_soon_threadsafe(future.set_result, None)


def remote(url: str, retry: RetryPolicy = RETRY, **options: Any) -> RemoteRunnable[Any, Any]:
    """Return the SDK's client of the counting chain."""
    return RemoteRunnable(f"{url}/count", retry=retry, **{"keepalive": KEEPALIVE, **options})


async def read_first(how: How, url: str, wish: dict[str, Any], tally: Tally, progress: Progress) -> None:
    """Start the run and read it."""
    client = remote(url)
    options: dict[str, Any] = {"on_run": progress.started, "detach": True}
    if how == "stream":
        return await _in_thread(lambda: client.stream(wish, **options), client, tally, progress.reached)
    return await _in_loop(client.astream(wish, **options), client, tally, progress.reached)


async def read_later(how: How, url: str, run_id: str, tally: Tally) -> None:
    """Read a run that another reader started, from the tally's first number."""
    # Block 1 is `metadata`, so number n is in block n + 2.
    after = tally.expected.start + 1 if tally.expected.start else 0
    if how == "raw":
        return await _RawReader(url, run_id, after, tally).read()
    client = remote(url)
    if how == "join":
        return await _in_thread(lambda: client.join(run_id, after), client, tally)
    return await _in_loop(client.ajoin(run_id, after), client, tally)


def _ignore(_count: int) -> None:
    pass


async def _in_loop(
    chunks: AsyncIterator[str], client: Any, tally: Tally, reached: Callable[[int], None] = _ignore
) -> None:
    async with client:
        async for chunk in chunks:
            tally.numbers.append(int(chunk))
            reached(len(tally.numbers))
        tally.terminals += 1


async def _in_thread(
    start: Callable[[], Iterator[str]], client: Any, tally: Tally, reached: Callable[[int], None] = _ignore
) -> None:
    def read() -> None:
        with client:
            for chunk in start():
                tally.numbers.append(int(chunk))
                reached(len(tally.numbers))
            tally.terminals += 1

    await asyncio.to_thread(read)


class _RawReader:
    """A reader with ids and `Last-Event-ID` only, which drops no repeated block."""

    def __init__(self, url: str, run_id: str, after: int, tally: Tally) -> None:
        self._url = f"{url}/runs/{run_id}/stream"
        self._cursor = after
        self._tally = tally
        self._left = RAW_BUDGET

    async def read(self) -> None:
        async with httpx.AsyncClient(timeout=10) as client:
            while not self._tally.terminals:
                await self._attempt(client)
            while await self._status_at_end(client) is None:
                pass

    async def _attempt(self, client: httpx.AsyncClient) -> None:
        self._left -= 1
        assert self._left > 0, f"no progress after block {self._cursor}"
        with suppress(httpx.TransportError):
            async with client.stream("GET", self._url, headers={"Last-Event-ID": str(self._cursor)}) as response:
                assert (response.status_code, response.headers["Run-Replay-From"]) == (200, str(self._cursor))
                await self._take_all(response)

    async def _take_all(self, response: httpx.Response) -> None:
        buffer = b""
        async for data in response.aiter_raw():
            *blocks, buffer = (buffer + data).split(b"\n\n")
            self._take(blocks)

    def _take(self, blocks: Iterable[bytes]) -> None:
        for block in blocks:
            parts = [line.partition(b":") for line in block.split(b"\n") if not line.startswith(b":")]
            fields = {name: value.removeprefix(b" ") for name, _, value in parts}
            self._cursor, self._left = int(fields[b"id"]), RAW_BUDGET
            if fields[b"event"] == b"data":
                self._tally.numbers.append(int(fields[b"data"].strip(b'" ')))
            self._tally.terminals += fields[b"event"] in (b"end", b"error")

    async def _status_at_end(self, client: httpx.AsyncClient) -> int | None:
        with suppress(httpx.TransportError):
            response = await client.get(self._url, headers={"Last-Event-ID": str(self._cursor)})
            assert response.status_code == 204
            return response.status_code
        return None
