"""Writes docs/performance.md from benchmarks/results.json: `python -m scripts.performance_page`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.__main__ import COMPARED
from benchmarks.results import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
ABSENT = "not measured yet"

TEXT = """# Performance

<!-- Written by `python -m scripts.performance_page` from benchmarks/results.json. Run those, not an editor. -->

`make bench` measures StreamServe, stock LangServe and the bare path side by side; `make bench ARGS="saturated hot"`
runs the benchmarks named. Run log and ids are switched on. Compare ratios: absolute times are those of one machine.

Each variant is a server in a process of its own on one core, the load client is another on another core. Variants take
turns within a round. CPU is what the server's process itself accounts for, over all of its threads; what redis-server
uses is not in it.

| name | what it is |
| --- | --- |
| stock | LangServe's `add_routes` on a plain FastAPI application, with LangServe's defaults |
| memory, sqlite, redis | StreamServe, by the store of its runs |
| eager | memory, with `STREAMSERVE_WRITE_INTERVAL=0`: a write for each token |
| starlette, raw | the same bytes without a chain: Starlette's streaming response, bare ASGI messages |
| process | the chain in process, without HTTP; `process model` is the model's own `astream` |
| langgraph | LangGraph's development server (extra `langgraph-server`): `/runs/stream` of the same graph |

## Targets

{targets}

Transport alone: what a client reaches that reads the bytes and decodes nothing (`httpx alone`, `aiohttp alone` in
`sdk`): where that is below a target, it is the transport that is in the way. What a first token waits for is in
`request`, package by package; the rest of `latency` is the web server's, the sockets' and the client's.

## Figures

{sections}
"""


class Target(NamedTuple):
    """What was promised of a figure.

    Args:
        measure: for people.
        benchmark: where it is measured.
        figure: its name there.
        limit: as people write it.
        holds: whether a median keeps the promise.
        alone: the figure of what bounds it: a client's transport alone.
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


def render(results: dict[str, Any] | None = None) -> str:
    """The page.

    Args:
        results: default: those that are kept.
    """
    if results is None:
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
    sections = [
        _section(name, results[name]) for name in [*COMPARED, *sorted(set(results) - set(COMPARED))] if name in results
    ]
    return TEXT.format(targets=_targets(results), sections="\n\n".join(sections))


def _targets(results: dict[str, Any]) -> str:
    rows = (_target(target, results) for target in TARGETS)
    return _table(("measure", "target", "median", "best round", "kept", "transport alone"), rows)


def _target(target: Target, results: dict[str, Any]) -> tuple[str, ...]:
    figures = results.get(target.benchmark, {}).get("figures", {})
    figure, alone = figures.get(target.figure), figures.get(target.alone)
    if figure is None:
        return target.measure, target.limit, ABSENT, "", "", ""
    best = (max if target.limit.startswith(">") else min)(figure["rounds"])
    kept = "yes" if target.holds(figure["median"]) else "no"
    bound = _number(alone["median"]) if alone else ""
    return target.measure, target.limit, _number(figure["median"]), _number(best), kept, bound


def _section(name: str, result: dict[str, Any]) -> str:
    rows = (
        (
            figure.strip(),
            _number(found["median"]),
            _number(min(found["rounds"])),
            _number(max(found["rounds"])),
            found["unit"],
        )
        for figure, found in result["figures"].items()
    )
    about = inspect.getdoc(COMPARED[name]) if name in COMPARED else None
    where = f"Python {result['python']}, {result['machine']}; `make bench ARGS={name}`."
    table = _table(("figure", "median", "least", "most", "unit"), rows)
    return f"### {name}\n\n{about + ' ' if about else ''}{where}\n\n{table}"


def _table(heads: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
