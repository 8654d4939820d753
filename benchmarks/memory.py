"""Memory of the server for each open idle stream, each further reader of a run, and each ended run that is kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import astuple, dataclass
from typing import TypeVar

from benchmarks.plan import Plan
from benchmarks.results import Figure, report
from benchmarks.rounds import Tried, tried
from benchmarks.servers.memory import CHUNKS, allow_files, serving

COUNT = 1000
WARM_UP = 50
AT_ONCE = 50  # connections to open together
LIMIT = 120.0

T = TypeVar("T")
Reader = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Costs:
    """Bytes of each kind of object, measured in one round."""

    stream: float
    reader: float
    bare: float
    run: float
    blocks: float


def main(plan: Plan) -> None:
    """Measure memory of the server: resident in one process per round, and in one more as Python counts it."""
    allow_files(4 * COUNT)
    resident = [_tried("resident") for _ in range(plan.rounds)]
    traced = [_tried("traced")]
    report("memory", [*_figures("resident", resident), *_figures("traced", traced)])


def _tried(kind: str) -> Tried[Costs]:
    return tried(lambda: asyncio.run(_round(kind)), astuple)


def _figures(kind: str, rounds: Sequence[Tried[Costs]]) -> list[Figure]:
    thrown = sum(each.thrown for each in rounds)
    costs = {
        "open idle stream": [each.found.stream for each in rounds],
        "further reader of a run": [each.found.reader for each in rounds],
        "idle stream of FastAPI alone": [each.found.bare for each in rounds],
        f"ended run of {CHUNKS} chunks": [each.found.run for each in rounds],
        "  of that, its blocks as sent": [each.found.blocks for each in rounds],
    }
    return [Figure(f"{name} ({kind})", "kB", [cost / 1000 for cost in found], thrown) for name, found in costs.items()]


class Probe:
    """A client on bare sockets, which holds thousands of streams at little cost.

    Args:
        port: port of the server on 127.0.0.1.
        kind: name of the server's figure to use.
    """

    def __init__(self, port: int, kind: str) -> None:
        self._port = port
        self._kind = kind
        self._run_id = ""

    async def memory(self) -> int:
        """Return the bytes that the server uses."""
        _, body = await self._whole("GET /memory")
        return int(json.loads(body)[self._kind])

    async def finish(self) -> int:
        """Read an answer to its end; return its size as sent."""
        _, body = await self._whole("POST /short/stream")
        assert b"event: end" in body
        return len(body)

    async def open_idle(self) -> Reader:
        """Open a stream that goes silent after its first chunk."""
        reader, writer = await self._send("POST /idle/stream")
        head = await reader.readuntil(b"\r\n\r\n")
        self._run_id = head.lower().split(b"run-id: ")[1].split(b"\r\n")[0].decode()
        await reader.readuntil(b"event: data")
        return reader, writer

    async def follow(self) -> Reader:
        """Open another stream of the idle run that was opened last."""
        reader, writer = await self._send(f"GET /runs/{self._run_id}/stream")
        await reader.readuntil(b"event: data")
        return reader, writer

    async def open_bare(self) -> Reader:
        """Open an idle stream without a run."""
        reader, writer = await self._send("GET /bare")
        await reader.readuntil(b"token")
        return reader, writer

    async def many(self, action: Callable[[], Awaitable[T]], count: int) -> list[T]:
        """Do an action `count` times, some at once."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def one() -> T:
            async with gate:
                return await action()

        return await asyncio.gather(*(one() for _ in range(count)))

    async def _whole(self, request: str) -> tuple[bytes, bytes]:
        reader, writer = await self._send(request)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return head, body

    async def _send(self, request: str) -> Reader:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        body = b'{"input": {}}' if request.startswith("POST") else b""
        head = f"{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        return reader, writer


async def _round(kind: str) -> Costs:
    with serving(traced=kind == "traced") as port:
        async with asyncio.timeout(LIMIT):
            return await _measured(Probe(port, kind))


async def _measured(probe: Probe) -> Costs:
    await probe.many(probe.finish, WARM_UP)
    kept = await probe.many(probe.open_idle, WARM_UP)
    before = await probe.memory()
    sizes = await probe.many(probe.finish, COUNT)
    after_runs = await probe.memory()
    kept += await probe.many(probe.open_idle, COUNT)
    after_streams = await probe.memory()
    kept += await probe.many(probe.follow, COUNT)
    after_readers = await probe.memory()
    kept += await probe.many(probe.open_bare, COUNT)
    after_bare = await probe.memory()
    for _, writer in kept:
        writer.transport.abort()
    return Costs(
        stream=(after_streams - after_runs) / COUNT,
        reader=(after_readers - after_streams) / COUNT,
        bare=(after_bare - after_readers) / COUNT,
        run=(after_runs - before) / COUNT,
        blocks=sum(sizes) / COUNT,
    )
