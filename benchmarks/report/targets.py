"""The promises about performance: docs/performance.md shows each beside its figure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Target(NamedTuple):
    """A promise about the median of a figure.

    Args:
        measure: name of the figure for people.
        benchmark: name of the benchmark that measures it.
        figure: its name in that benchmark.
        limit: the promise as people write it.
        holds: tells if a median keeps the promise.
        alone: name of the same figure for the client's transport alone, which bounds it.
    """

    measure: str
    benchmark: str
    figure: str
    limit: str
    holds: Callable[[float], bool]
    alone: str = ""


def _least(measure: str, benchmark: str, figure: str, limit: float, alone: str = "") -> Target:
    return Target(measure, benchmark, figure, f">= {limit:g}", lambda found: found >= limit, alone)


def _sdk(measure: str, regime: str, limit: float, transport: str) -> Target:
    ours = "sdk" if transport == "httpx" else f"sdk on {transport}"
    alone = f"stock / {transport} alone messages, {regime}"
    return _least(measure, "sdk", f"stock / {ours} messages, {regime}", limit, alone)


def _most(measure: str, benchmark: str, figure: str, limit: float) -> Target:
    return Target(measure, benchmark, figure, f"<= {limit:g}", lambda found: found <= limit)


SQLITE, REDIS = "sqlite, 200 runs: ", "redis, 200 runs: "
TARGETS = (
    _least("CPU per token, 50 streams, text: stock over ours", "saturated", "stock text / memory text", 3.5),
    _least("the same, messages", "saturated", "stock messages / memory messages", 3),
    _most("CPU per token over `model.astream` in process", "saturated", "memory text / process model", 2.2),
    _least("streams of 50 tokens/s, text: ours over stock", "paced", "memory text / stock text", 5),
    _least("the same, messages", "paced", "memory messages / stock messages", 4),
    _least("CPU per token with a ChatOpenAI: stock over ours", "openai", "stock openai / memory openai", 4),
    _least("streams with a ChatOpenAI: ours over stock", "paced_openai", "memory openai / stock openai", 4),
    _most("chain in process, instructions over the model alone", "instructions", "streamed text / model", 1.25),
    _most("longest stall, 4,000 tokens, text (ms)", "stall", "memory text, 4000 tokens: longest stall", 10),
    _most("the same, messages (ms)", "stall", "memory messages, 4000 tokens: longest stall", 10),
    _most(
        "first token over the raw path, 1 stream, p50 (ms)", "latency", "memory, 1 streams: first token over raw p50", 1
    ),
    _most("SQLite over memory, 200 runs, CPU per block (us)", "stores", SQLITE + "CPU per block, over memory", 25),
    _most("the same, time to a reader p50 (ms)", "stores", SQLITE + "to a reader p50, over memory", 1),
    _most("Redis over memory, 200 runs, CPU per block (us)", "stores", REDIS + "CPU per block, over memory", 25),
    _most("the same, time to a reader p50 (ms)", "stores", REDIS + "to a reader p50, over memory", 1),
    _sdk("SDK, messages, hot from StreamServe: stock over ours", "served", 3, "httpx"),
    _sdk("the same on aiohttp", "served", 6, "aiohttp"),
    _sdk("SDK, messages, hot, a write for each token: stock over ours", "hot", 3, "httpx"),
    _sdk("the same on aiohttp", "hot", 6, "aiohttp"),
    _sdk("SDK, messages, paced: stock over ours", "paced", 3, "httpx"),
    _sdk("the same on aiohttp", "paced", 3, "aiohttp"),
    _most("memory of an idle stream, resident (kB)", "memory", "open idle stream (resident)", 40),
    _most("the same, as Python counts it (kB)", "memory", "open idle stream (traced)", 40),
    _most("graph in message mode: ours over the graph in process", "graph", "memory graph / process graph", 1.5),
)
