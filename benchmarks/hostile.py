"""Effect of one hostile request on the streams of others: 50 of them run while it is refused.

The server and the readers are processes of their own; the longest gap between two reads of any stream is printed. Then
each part of a request grows, and the longest time is printed for which one of them holds the server's event loop.
"""

from __future__ import annotations

import json
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from heapq import nlargest
from itertools import repeat
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.plan import Plan
from benchmarks.results import Figure, report
from tests.faults.attacks import BOMB, request
from tests.faults.grown import Hold, held
from tests.faults.growth import KINDS
from tests.faults.hostile_server import attacked
from tests.faults.rhythm import watched

STREAMS = 50
LIMIT = 60.0
MEGABYTE = 2**20
QUIET = 3.0  # seconds without an attack, for comparison
SHOWN = 10  # requests that hold the event loop for longest
TOO_LONG = 0.05  # seconds for which a request may hold the event loop

Parts = Iterator[bytes]


def body_of_100_mb() -> Parts:
    """Send 100 MB with their length."""
    yield request("/greeting/invoke", b"", declared=100 * MEGABYTE)
    yield from repeat(b"x" * MEGABYTE, 100)


def chunks_of_100_mb() -> Parts:
    """Send 100 MB in chunks, without a length."""
    yield request("/greeting/invoke", b"", "Transfer-Encoding: chunked")
    yield from repeat(b"100000\r\n" + b"x" * MEGABYTE + b"\r\n", 100)


def batch_of_20_000() -> Parts:
    """Send a batch of 20,000 valid inputs."""
    yield request("/greeting/batch", json.dumps({"inputs": [{"topic": "cats"}] * 20_000}).encode())


def million_integers() -> Parts:
    """Send a list of a million integers; LangServe freezes on it."""
    yield request("/greeting/invoke", b'{"input": [' + b"1," * 1_000_000 + b"1]}")


def most_messages() -> Parts:
    """Send as many messages as the server admits, none of which is valid."""
    messages = [{"type": "human", "content": {"a": 1}}] * 950
    yield request("/chat/invoke", json.dumps({"input": {"messages": messages}}).encode())


def byte_per_second() -> Parts:
    """Send a body by one byte a second; this server waits two seconds for one, by default thirty."""
    yield request("/greeting/invoke", b"", declared=1000)
    while True:
        time.sleep(1)
        yield b" "


def unpacking_hash() -> Parts:
    """Send two million characters, packed into a path of three thousand."""
    yield request(f"/greeting/c/{BOMB}/invoke", b'{"input": {"topic": "cats"}}')


ATTACKS = (
    body_of_100_mb,
    chunks_of_100_mb,
    batch_of_20_000,
    million_integers,
    most_messages,
    byte_per_second,
    unpacking_hash,
)


def refused(url: str, parts: Parts) -> tuple[int, float]:
    """Send a request; return the status, and the seconds from the first byte to it."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=LIMIT) as connection:
        begun = time.perf_counter()
        try:
            for part in parts:
                connection.sendall(part)
                if answer := _read_now(connection):
                    return int(answer[9:12]), time.perf_counter() - begun
            connection.setblocking(True)
            return int(connection.recv(65536)[9:12]), time.perf_counter() - begun
        except (ConnectionResetError, BrokenPipeError):
            return 0, time.perf_counter() - begun


def _read_now(connection: socket.socket) -> bytes:
    connection.setblocking(False)
    try:
        return connection.recv(65536)
    except BlockingIOError:
        return b""
    finally:
        connection.settimeout(LIMIT)


def main(plan: Plan) -> None:
    """Measure the longest gap between two reads of 50 streams while a hostile request is refused."""
    figures = []
    with tempfile.TemporaryDirectory() as folder, attacked(Path(folder) / "log") as url:
        with watched(url, STREAMS) as rhythm:
            time.sleep(QUIET)
        figures.append(Figure("without an attack: longest gap", "ms", [rhythm.longest * 1000]))
        for attack in ATTACKS:
            gaps, times, statuses = [], [], set()
            for _ in range(plan.rounds):
                with watched(url, STREAMS) as rhythm:
                    status, seconds = refused(url, attack())
                    time.sleep(0.5)
                statuses.add(status)
                gaps.append(rhythm.longest * 1000)
                times.append(seconds * 1000)
                assert rhythm.broken == 0
            name = attack.__name__.replace("_", " ")
            figures.append(Figure(f"{name}: refused ({statuses}) after", "ms", times))
            figures.append(Figure(f"{name}: longest gap", "ms", gaps))
        figures += growth(url, plan)
    report("hostile", figures)


def growth(url: str, plan: Plan) -> list[Figure]:
    """Grow each header, address and field; print what holds the event loop for too long and the longest of all.

    Returns:
        The longest time of each kind.
    """
    figures, every, statuses = [], [], Counter[int]()
    for kind in KINDS:
        longest = Hold(0.0, 0.0, 0.0)
        for number, grown in enumerate(kind()):
            if number % plan.amount(1, 50):
                continue
            hold, status = held(url, grown)
            longest = Hold(*map(max, longest, hold))
            every.append((hold, f"{line_of(hold)}, {status}: {grown.name}, {grown.size}"))
            statuses[status] += 1
            if hold.held > TOO_LONG or status >= 500:
                print(every[-1][1])
        name = kind.__name__.replace("_", " ")
        for what, seconds in longest._asdict().items():
            figures.append(Figure(f"growing {name}: longest gap of the event loop, {what}", "ms", [seconds * 1000]))
    print("The longest:", *(text for _, text in nlargest(SHOWN, every)), sep="\n")
    print("Answers:", ", ".join(f"{count} of {status}" for status, count in sorted(statuses.items())))
    return figures


def line_of(hold: Hold) -> str:
    """Return the times of a gap as a text."""
    held, own, wall = (seconds * 1000 for seconds in hold)
    return f"{held:8.1f} ms held ({own:.1f} by the loop's own thread, {wall:.1f} on the clock)"
