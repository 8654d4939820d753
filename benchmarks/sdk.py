"""The SDK against LangServe's RemoteRunnable: CPU of the client per token, by the client's own accounting.

Hot and paced, the server is the bare ASGI one with our blocks, one write for each, so that the client is the limit.
Served, it is StreamServe, which joins waiting blocks into one write. Clients take turns within a round, with
short streams and long ones: the difference is the cost of tokens. Each is a process of its own, because what one leaves
to the collector another would pay for. `httpx alone` and `aiohttp alone` read the bytes and decode nothing: less no
client of theirs can take.
"""

from __future__ import annotations

import asyncio
import importlib.util
import multiprocessing
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import httpx
import uvloop

from benchmarks.plan import Plan, ratio
from benchmarks.results import Figure, report
from benchmarks.rounds import tried
from benchmarks.servers.fleet import core
from benchmarks.workload import Order

RATE = 50
CHAINS = ("text", "messages")
MARK = b"event: data"
PAIRS = (
    3  # of a short stream and a long one in a round: one stream takes some milliseconds, so one pair is mostly noise
)


def _stock(url: str) -> Any:
    from langserve import RemoteRunnable

    return RemoteRunnable(url)


def _ours(url: str) -> Any:
    from streamserve_sdk import RemoteRunnable

    return RemoteRunnable(url)


def _aiohttp(url: str) -> Any:
    from streamserve_sdk import RemoteRunnable

    return RemoteRunnable(url, transport="aiohttp")


class _Bare:
    """A client that only counts tokens.

    Args:
        body: function that sends a request's body and yields the answer.
        aclose: function that closes the connections.
    """

    def __init__(self, body: Callable[[Any], AsyncIterator[bytes]], aclose: Callable[[], Awaitable[None]]) -> None:
        self._body = body
        self.aclose = aclose

    async def astream(self, value: Any) -> AsyncIterator[None]:
        tail = b""
        async for data in self._body({"input": value}):
            whole = tail + data
            tail = whole[1 - len(MARK) :]
            for _ in range(whole.count(MARK)):
                yield None


def _httpx_alone(url: str) -> Any:
    client = httpx.AsyncClient()

    async def body(asked: Any) -> AsyncIterator[bytes]:
        async with client.stream("POST", f"{url}/stream", json=asked) as response:
            async for data in response.aiter_raw():
                yield data

    return _Bare(body, client.aclose)


def _aiohttp_alone(url: str) -> Any:
    import aiohttp

    session = aiohttp.ClientSession()

    async def body(asked: Any) -> AsyncIterator[bytes]:
        async with session.post(f"{url}/stream", json=asked) as response:
            async for data in response.content.iter_any():
                yield data

    return _Bare(body, session.close)


CLIENTS: dict[str, Callable[[str], Any]] = {
    "stock": _stock,
    "sdk": _ours,
    "sdk on aiohttp": _aiohttp,
    "httpx alone": _httpx_alone,
    "aiohttp alone": _aiohttp_alone,
}


def main(plan: Plan) -> None:
    """Measure one stream as fast as it comes (hot, served), and 50 streams of 50 tokens/s (paced)."""
    names = [name for name in CLIENTS if "aiohttp" not in name or importlib.util.find_spec("httpx_aiohttp")]
    hot = Order(plan.amount(5000, 20), "yielding")
    paced = Order(plan.amount(150, 15), str(RATE))
    figures = []
    with ExitStack() as stack:
        pools = {name: stack.enter_context(_pool()) for name in names}
        regimes = (
            ("hot", "raw", hot, 1),
            ("served", "memory", hot, 1),
            ("paced", "raw", paced, plan.amount(50, 2)),
        )
        for regime, server, order, streams in regimes:
            for chain in CHAINS:
                url = f"http://127.0.0.1:{plan.fleet[server].port}/{chain}"
                figures += _figures(plan, pools, f"{chain}, {regime}", (url, order, streams))
    report("sdk", figures)


def _figures(
    plan: Plan, pools: dict[str, ProcessPoolExecutor], what: str, load: tuple[str, Order, int]
) -> list[Figure]:
    for name, pool in pools.items():  # connects, and does late imports
        pool.submit(_cost, name, *load).result()
    found: dict[str, list[float]] = {name: [] for name in pools}
    thrown = dict.fromkeys(pools, 0)
    for _ in range(plan.rounds):
        for name, pool in pools.items():
            cost = tried(partial(_cost_in, pool, name, load), lambda each: [each], plan.tries)
            found[name].append(cost.found)
            thrown[name] += cost.thrown
    figures = [Figure(f"{name} {what}", "us per token", values, thrown[name]) for name, values in found.items()]
    ratios = [ratio(f"stock / {name} {what}", found["stock"], values) for name, values in found.items()]
    return [*figures, *ratios[1:]]


def _cost_in(pool: ProcessPoolExecutor, name: str, load: tuple[str, Order, int]) -> float:
    return pool.submit(_cost, name, *load).result()


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_start)


def _start() -> None:
    core(of_servers=False)


def _cost(name: str, url: str, order: Order, streams: int) -> float:
    pairs = PAIRS if streams == 1 else 1
    return statistics.median(_difference(CLIENTS[name], url, order, streams) for _ in range(pairs))


def _difference(make: Callable[[str], Any], url: str, order: Order, streams: int) -> float:
    """Return microseconds per token by which a long stream takes more than a short one."""
    short = Order(order.count // 10, order.pace)
    used = [uvloop.run(_read(make, url, each, streams)) for each in (short, order)]
    return (used[1] - used[0]) / ((order.count - short.count) * streams) * 1e6


async def _read(make: Callable[[str], Any], url: str, order: Order, streams: int) -> float:
    remote = make(url)

    async def one() -> int:
        count = 0
        async for _ in remote.astream({"order": str(order)}):
            count += 1
        return count

    began = time.process_time()
    counts = await asyncio.gather(*(one() for _ in range(streams)))
    used = time.process_time() - began
    # LangChain ends a model's stream with an empty chunk of its own.
    assert set(counts) <= {order.count, order.count + 1}, counts
    if hasattr(remote, "aclose"):
        await remote.aclose()
    return used
