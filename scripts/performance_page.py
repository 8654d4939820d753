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

`httpx alone` and `aiohttp alone` in `sdk` read the bytes and decode nothing: `stock / httpx alone` is the most that any
client on httpx reaches. Paced, or with a write for each token, the transport is most of what the SDK takes.
What a first token waits for is in
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
    """

    measure: str
    benchmark: str
    figure: str
    limit: str
    holds: Callable[[float], bool]


def _least(measure: str, benchmark: str, figure: str, limit: float) -> Target:
    return Target(measure, benchmark, figure, f">= {limit:g}", lambda found: found >= limit)


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
    _least("SDK, messages, a write for each token: stock over ours", "sdk", "stock / sdk messages, hot", 3),
    _least("the same on aiohttp", "sdk", "stock / sdk on aiohttp messages, hot", 6),
    _least("SDK, messages, hot from StreamServe: stock over ours", "sdk", "stock / sdk messages, served", 3),
    _least("the same on aiohttp", "sdk", "stock / sdk on aiohttp messages, served", 6),
    _least("SDK, messages, paced: stock over ours", "sdk", "stock / sdk messages, paced", 3),
    _least("the same on aiohttp", "sdk", "stock / sdk on aiohttp messages, paced", 3),
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
    return _table(("measure", "target", "median", "best round", "kept"), rows)


def _target(target: Target, results: dict[str, Any]) -> tuple[str, ...]:
    figure = results.get(target.benchmark, {}).get("figures", {}).get(target.figure)
    if figure is None:
        return target.measure, target.limit, ABSENT, "", ""
    best = (max if target.limit.startswith(">") else min)(figure["rounds"])
    kept = "yes" if target.holds(figure["median"]) else "no"
    return target.measure, target.limit, _number(figure["median"]), _number(best), kept


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
