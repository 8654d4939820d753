"""Streams watched from a process of its own, so that a busy client adds nothing to the server's gaps."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.limits import LIMIT

ROOT = Path(__file__).parents[2]
PAUSE = 0.02  # between two tokens: 50 a second


@dataclass
class Rhythm:
    """The gaps that the readers saw; complete once the block ends.

    Args:
        longest: longest gap of any stream, in seconds.
        tokens: number of tokens of all streams.
        broken: number of streams that ended by themselves.
    """

    longest: float = 0.0
    tokens: int = 0
    broken: int = 0


@contextmanager
def watched(url: str, streams: int) -> Iterator[Rhythm]:
    """Read `streams` streams of /count until the block ends."""
    command = [sys.executable, "-m", "tests.faults.rhythm", url, str(streams)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    rhythm = Rhythm()
    try:
        assert process.stdout.readline() == "reading\n"
        yield rhythm
        out, _ = process.communicate(timeout=LIMIT)
        rhythm.longest, rhythm.tokens, rhythm.broken = json.loads(out)
    finally:
        process.kill()
        process.wait()


async def _read(host: str, port: int, ready: asyncio.Semaphore, gaps: list[float]) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    body = json.dumps({"input": {"blocks": 10**9, "burst": 1, "pause": PAUSE}}).encode()
    head = f"POST /count/stream HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await reader.readuntil(b"event: data")
    ready.release()
    last = time.perf_counter()
    try:
        while await reader.read(65536):
            now = time.perf_counter()
            gaps.append(now - last)
            last = now
    finally:
        writer.close()


async def _watch(url: str, streams: int) -> None:
    place, ready = urlsplit(url), asyncio.Semaphore(0)
    assert place.hostname
    assert place.port
    gaps: list[list[float]] = [[] for _ in range(streams)]
    tasks = [asyncio.create_task(_read(place.hostname, place.port, ready, mine)) for mine in gaps]
    for _ in tasks:
        await ready.acquire()
    for mine in gaps:
        mine.clear()
    print("reading", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    broken = sum(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    flat = [gap for mine in gaps for gap in mine]
    print(json.dumps([max(flat), len(flat), broken]))


if __name__ == "__main__":
    asyncio.run(_watch(sys.argv[1], int(sys.argv[2])))
