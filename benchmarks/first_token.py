"""A reader's wait for the first token and for the end of /joke/stream, over a real socket."""

from __future__ import annotations

import asyncio
import os
import time

import httpx

from benchmarks.plan import Plan
from benchmarks.results import Figure, report

PACE = 0.03  # seconds per token: about 33 tokens a second, as a hosted model of middle size
BODY = {"input": {"topic": "a programmer"}}


def main(plan: Plan) -> None:
    """Measure a reader's wait for the first token of /joke/stream and for its end, over a real socket."""
    os.environ |= {"STREAMSERVE_MODEL": "offline", "STREAMSERVE_OFFLINE_PACE": str(PACE)}
    from streamserve.app import create_app
    from streamserve.catalog.registry import discover
    from tests.servers import serving

    with serving(create_app(discover("chains"))) as url:
        rounds = asyncio.run(_rounds(url, plan.rounds))
    figures = [
        Figure("tokens", "tokens", [len(arrivals) for arrivals, _ in rounds]),
        Figure("first token", "ms", [arrivals[0] * 1000 for arrivals, _ in rounds]),
        Figure("whole answer", "ms", [whole * 1000 for _, whole in rounds]),
    ]
    report("first_token", figures)


async def _rounds(url: str, rounds: int) -> list[tuple[list[float], float]]:
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        await _measure(client)  # the first call connects, and does late imports
        return [await _measure(client) for _ in range(rounds)]


async def _measure(client: httpx.AsyncClient) -> tuple[list[float], float]:
    start = time.perf_counter()
    async with client.stream("POST", "/joke/stream", json=BODY) as response:
        lines = response.aiter_lines()
        arrivals = [time.perf_counter() - start async for line in lines if line == "event: data"]
    return arrivals, time.perf_counter() - start
