"""Cost of a token from a model server: ChatOpenAI and ours, over httpx and, if it is installed, aiohttp.

The model server is a process of its own; CPU is that of all OS threads of this one. Clients take turns in each round.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import openai
import uvloop
from langchain_openai import ChatOpenAI

from benchmarks.plan import Plan
from benchmarks.results import Figure, report
from benchmarks.rounds import quotient
from streamserve.models.openai.completions import ChunkChatOpenAI

ROOT = Path(__file__).parents[1]
LIMIT = 300.0
CLIENTS: dict[str, Callable[..., Any]] = {"httpx": openai.DefaultAsyncHttpxClient}
if find_spec("aiohttp"):
    CLIENTS["aiohttp"] = openai.DefaultAioHttpClient


@dataclass(frozen=True)
class Regime:
    """The load of the client.

    Args:
        name: prefix of the figures.
        streams: number of streams at the same time.
        tokens: number of tokens of each stream.
        pause: seconds between tokens; 0: as fast as they are read.
    """

    name: str
    streams: int
    tokens: int
    pause: float


REGIMES = (Regime("hot", 1, 2000, 0.0), Regime("paced", 50, 100, 0.02))


@contextmanager
def serving(tokens: int) -> Iterator[str]:
    """Run a model server until the block ends; yield its base URL."""
    command = [sys.executable, "-m", "benchmarks.servers.upstream", str(tokens)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


@asynccontextmanager
async def ways(base_url: str, pause: float) -> AsyncIterator[dict[str, ChatOpenAI]]:
    """Yield the models to compare, each with connections of its own."""
    common: dict[str, Any] = {"base_url": base_url, "api_key": "none", "model": "m", "use_responses_api": False}
    common |= {"stream_usage": True, "default_headers": {"x-pace": str(pause)}}
    async with AsyncExitStack() as stack:
        yield {
            f"{name} over {transport}": kind(
                http_async_client=await stack.enter_async_context(client(trust_env=False)), **common
            )
            for transport, client in CLIENTS.items()
            for name, kind in (("ChatOpenAI", ChatOpenAI), ("ours", ChunkChatOpenAI))
        }


async def cost(model: ChatOpenAI, regime: Regime) -> float:
    """Return microseconds of CPU per token."""
    gc.collect()
    began = time.process_time()
    counts = await asyncio.gather(*(_count(model) for _ in range(regime.streams)))
    spent = time.process_time() - began
    assert min(counts) >= regime.tokens
    return spent / (regime.streams * regime.tokens) * 1e6


async def _count(model: ChatOpenAI) -> int:
    return len([chunk async for chunk in model.astream("hi")])


async def rounds_of(regime: Regime, rounds: int) -> dict[str, list[float]]:
    """Return the cost of each model in each round."""
    with serving(regime.tokens) as base_url:
        async with asyncio.timeout(LIMIT), ways(base_url, regime.pause) as models:
            for model in models.values():
                await cost(model, regime)
            found: dict[str, list[float]] = {name: [] for name in models}
            for _ in range(rounds):
                for name, model in models.items():
                    found[name].append(await cost(model, regime))
            return found


def figures_of(regime: Regime, costs: dict[str, list[float]]) -> list[Figure]:
    """Return the costs, and their ratios to the first model's."""
    stock = next(iter(costs.values()))
    figures = [Figure(f"{regime.name}: {name}", "us/token", values) for name, values in costs.items()]
    for name, values in list(costs.items())[1:]:
        shares = [quotient(*pair) for pair in zip(values, stock, strict=True)]
        figures.append(Figure(f"{regime.name}: {name} / stock", "ratio", shares))
    return figures


def main(plan: Plan) -> None:
    """Measure CPU per token that a client of a model server uses: ChatOpenAI and ours, over httpx and aiohttp."""
    costs = {regime: uvloop.run(rounds_of(regime, plan.rounds)) for regime in REGIMES}
    report("upstream", [figure for regime, found in costs.items() for figure in figures_of(regime, found)])
