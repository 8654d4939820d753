"""A soak: streams that are read, cut, resumed, cancelled or that fail, for minutes; then a look for leaks.

A tenth of the calls misbehave. `python -m benchmarks.soak --seconds 600 --streams 100` exits with 1 if a stream was not
whole, an answer was wrong, or something is left.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from benchmarks import misdeeds
from benchmarks.servers.behaving import TOKENS
from tests.faults.attacks import answer_to

ROOT = Path(__file__).parents[1]
START = re.compile(r"running on http://127\.0\.0\.1:(\d+)")
ID = re.compile(rb"^id: (\d+)", re.MULTILINE)
RUN = re.compile(rb"(?i)^run-id: (\S+)", re.MULTILINE)
# Weight of each act.
ACTS = {"whole": 63, "cut": 7, "resumed": 11, "cancelled": 5, "failed": 4, "misbehaved": 10}
LIMIT = 60.0
START_LIMIT = 180.0  # seconds; the server makes 900 routes, beside whatever else the machine does
SETTLE = 30.0
# Memory that an allocator may keep after thousands of streams; a leak of a kilobyte per token is far above it.
GROWTH_KB = 20_000


class Server:
    """A server process.

    Args:
        log: file for its records.
    """

    def __init__(self, log: Path) -> None:
        arguments = ["serve", "--app", "benchmarks.servers.soak:app", "--port", "0"]
        command = [sys.executable, "-m", "streamserve.cli", *arguments]
        # glibc gives each OS thread a heap, up to eight per core: half-empty ones would look like a leak.
        environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
        deadline = monotonic() + START_LIMIT
        while not (found := START.search(log.read_text("utf-8"))):
            if self.process.poll() is not None or monotonic() > deadline:
                self.process.kill()
                raise RuntimeError(f"the server did not start: {log}")
            sleep(0.05)
        self.port = int(found[1])
        self.gap = 0.0

    async def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> AsyncIterator[bytes]:
        """Yield the answer as it arrives; note the longest gap between two parts of a stream."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        names = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{names}"
        head += f"Content-Length: {len(body)}\r\n"
        try:
            writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            async with asyncio.timeout(LIMIT):
                last = 0.0
                while part := await reader.read(65_536):
                    now = monotonic()
                    if last and path.endswith("/stream"):
                        self.gap = max(self.gap, now - last)
                    last = now
                    yield part
        finally:
            writer.transport.abort()

    async def whole(self, method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
        """Return the complete answer."""
        return b"".join([part async for part in self.request(method, path, body, **headers)])

    async def left(self) -> dict[str, int]:
        """Return the counts of objects in the process."""
        answer = await self.whole("GET", "/left")
        found: dict[str, int] = json.loads(answer.partition(b"\r\n\r\n")[2])
        return found


class Soak:
    """The callers of a server.

    Args:
        server: server to call.
        seed: seed of their acts.
    """

    def __init__(self, server: Server, seed: int) -> None:
        self.server = server
        self._random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.misdeeds: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def call_until(self, end: float) -> None:
        """Call one stream after the other until `end`, or until the server is gone."""
        while monotonic() < end and self.server.process.poll() is None:
            (act,) = self._random.choices(list(ACTS), list(ACTS.values()))
            try:
                fault = await getattr(self, act)()
            except (OSError, TimeoutError) as error:
                fault = repr(error)
            self.done[act] += 1
            if fault:
                self.wrong.append(f"{act}: {fault}")

    async def whole(self) -> str:
        """Read a stream to its end."""
        return wrong(await self._post("steady"), b"event: end", TOKENS)

    async def failed(self) -> str:
        """Read a stream of a chain that fails."""
        return wrong(await self._post("failing"), b"event: error", TOKENS // 3)

    async def cut(self) -> str:
        """Leave a stream in the middle."""
        return hole(ids_of(await self._part("steady")))

    async def resumed(self) -> str:
        """Cut a stream and resume it."""
        got = await self._part("steady", Idempotency_Key=os.urandom(8).hex())
        seen = ids_of(got[: got.rfind(b"\n\n") + 2])
        last = seen[-1] if seen else 0
        rest = await self.server.whole("GET", f"/runs/{run_of(got)}/stream", Last_Event_ID=str(last))
        return hole(seen) or wrong(rest, b"event: end", TOKENS, last)

    async def cancelled(self) -> str:
        """Cancel a run."""
        got = await self._part("steady", Run_On_Disconnect="continue")
        answer = await self.server.whole("POST", f"/runs/{run_of(got)}/cancel?wait=10")
        return "" if b'"cancelled"' in answer or b'"done"' in answer else answer[-200:].decode()

    async def misbehaved(self) -> str:
        """Misbehave; the answer says so, and no stream of others shows it."""
        seed = self._random.randrange(2**32)
        made = misdeeds.misdeed(seed)
        async with asyncio.timeout(LIMIT):
            answer = await answer_to(made.attack, "127.0.0.1", self.server.port)
        if answer.startswith(b"HTTP/1.1 202"):
            answer = await self.server.whole("GET", f"/runs/{run_of(answer)}/output?wait=30")
        self.misdeeds[made.attack.name] += 1
        fault = made.fault_of(answer)
        return fault and f"misdeed({seed}), {made.attack.name}: {fault}"

    async def _post(self, chain: str, **headers: str) -> bytes:
        return await self.server.whole("POST", f"/{chain}/stream", b'{"input": "x"}', **headers)

    async def _part(self, chain: str, **headers: str) -> bytes:
        got, enough = b"", self._random.randrange(700, 3500)
        async with aclosing(self.server.request("POST", f"/{chain}/stream", b'{"input": "x"}', **headers)) as parts:  # type: ignore[type-var]
            async for part in parts:
                got += part
                if len(got) > enough:
                    break
        return got


def run_of(answer: bytes) -> str:
    """Return the run's id from the head of an answer."""
    found = RUN.search(answer)
    return found[1].decode() if found else "unknown"


def ids_of(answer: bytes) -> list[int]:
    """Return the ids of a stream's blocks."""
    return [int(number) for number in ID.findall(answer)]


def hole(ids: list[int], after: int = 0) -> str:
    """Return the fault of ids that are not dense, or an empty text."""
    return "" if ids == list(range(after + 1, after + 1 + len(ids))) else f"ids {ids[:3]}...{ids[-3:]} after {after}"


def wrong(answer: bytes, terminal: bytes, tokens: int, after: int = 0) -> str:
    """Return the fault of a stream, or an empty text: its ids must be dense, with one terminal block of this kind.

    Args:
        tokens: number of the tokens, between the first block and the terminal.
        after: the sequence number after which the stream was resumed.
    """
    ids = ids_of(answer)
    if fault := hole(ids, after):
        return fault
    if ids[-1:] != [tokens + 2] and after < tokens + 2:
        return f"{ids[-1:]} instead of {tokens + 2}: {answer[-200:]!r}"
    if len(re.findall(rb"event: (?:end|error)", answer)) != 1 or terminal not in answer:
        return f"no {terminal.decode()}: {answer[-200:]!r}"
    return ""


async def soak(server: Server, streams: int, seconds: float, warm: float, seed: int) -> dict[str, Any]:
    """Soak a server; return the acts, the faults, the longest gap, and the counts of objects before and after.

    Args:
        server: running server.
        streams: number of streams at a time.
        seconds: duration.
        warm: seconds of the same load before the first count.
        seed: seed of the acts.
    """
    misdeeds.warm()
    callers = Soak(server, seed)
    await _run(callers, streams, warm)
    before = await settled(server, await server.left() | {"runs": 0, "readers": 0, "tasks": 0})
    server.gap = 0.0
    await _run(callers, streams, seconds)
    gap = round(server.gap * 1000)
    after = await settled(server, before)
    return {
        "seed": seed,
        "done": dict(callers.done),
        "misdeeds": dict(sorted(callers.misdeeds.items())),
        "longest_gap_ms": gap,
        "wrong": callers.wrong,
        "before": before,
        "after": after,
    }


async def _run(callers: Soak, streams: int, seconds: float) -> None:
    end = monotonic() + seconds
    await asyncio.gather(*(callers.call_until(end) for _ in range(streams)))
    if (code := callers.server.process.poll()) is not None:
        raise SystemExit("\n".join([f"the server ended with {code}", *callers.wrong[:streams]]))


async def settled(server: Server, before: dict[str, int]) -> dict[str, int]:
    """Return the counts once runs are forgotten and connections closed, or after a time limit."""
    deadline = monotonic() + SETTLE
    while True:
        found = await server.left()
        rest = ("runs", "readers", "tasks", "files")
        if all(found[name] <= before[name] for name in rest) or monotonic() > deadline:
            return found
        await asyncio.sleep(0.5)
        if not before["tasks"] and not found["runs"] + found["readers"]:
            return await server.left()


def leaks(result: dict[str, Any]) -> list[str]:
    """Return the names of counts that grew."""
    before, after = result["before"], result["after"]
    found = [name for name in ("runs", "readers", "tasks", "files") if after[name] > before[name]]
    return found + (["memory"] if after["memory_kb"] > before["memory_kb"] + GROWTH_KB else [])


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--warm", type=float, default=60, help="a heap takes a minute to reach its size")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)), help="of the acts [random]")
    parser.add_argument("--log", type=Path, default=ROOT / "build" / "soak.log")
    given = parser.parse_args()
    given.log.parent.mkdir(exist_ok=True)
    print(f"seed {given.seed}", flush=True)
    server = Server(given.log)
    try:
        result = asyncio.run(soak(server, given.streams, given.seconds, given.warm, given.seed))
        server.process.send_signal(signal.SIGTERM)
        result["exit_code"] = server.process.wait(LIMIT)
    finally:
        server.process.kill()
    result["leaks"] = leaks(result)
    print(json.dumps(result, indent=2))
    sys.exit(1 if result["wrong"] or result["leaks"] or result["exit_code"] else 0)


if __name__ == "__main__":
    main()
