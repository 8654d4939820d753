"""Write docs/performance.md and docs/figures.md from benchmarks/results.json: `python -m benchmarks.report.page`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.__main__ import ALONE, COMPARED
from benchmarks.report.rows import lines, tables
from benchmarks.report.targets import TARGETS, Target
from benchmarks.results import RESULTS, Figure

DOCS = Path(__file__).parents[2] / "docs"
ABSENT = "not measured yet"
LEFT_OUT = "left out"
BENCHMARKS = COMPARED | ALONE

PERFORMANCE = """# Performance

<!-- Written by `python -m benchmarks.report.page` from benchmarks/results.json. Run those, not an editor. -->

Measure StreamServe, LangServe and the bare path side by side on your machine, all benchmarks or the ones you name:

```bash
make bench
make bench ARGS=saturated
```

Compare two checkouts, one round of each in turn, with
`.venv/bin/python -m benchmarks saturated latency --against ../other --rounds 5`.

## Chains that people write

Measure them on the versions that you have installed; the command prints this table:

```bash
make bench ARGS=table
```

CPU of the server's process in microseconds per token, unless the row says otherwise, of 50 streams at once with a
model that yields after each token. LangServe and StreamServe take turns on the same versions in the same run. The
ratio says how much StreamServe saves: its median, and its least and most of the rounds.

{tables}

## Targets

{targets}

The column "transport alone" is the same ratio for a client that reads the bytes and decodes nothing (`httpx alone`,
`aiohttp alone`). Where it is below a target, the transport is the limit, not the SDK.

## Read a figure

- All figures of the targets are in [figures.md](figures.md), one section for each benchmark, with the median, the least
  and the most of the rounds.
- Compare ratios. Absolute times are those of one machine.
- Each variant is a server in a process of its own on one core; the load client is a process on another core. Variants
  take turns within a round, so that what else runs on the machine affects all of them.
- CPU is the time that the server's process accounts for, over all of its threads. The CPU of redis-server is not part
  of it. Run log and ids are switched on.
- A round is thrown away if its figure cannot be true: a cost that is not positive or below 0.001 of its unit, or a
  ratio with such a denominator. The benchmark measures three times at most, and leaves out a figure that makes sense in
  no more than half of its rounds.
- {left_out}

| variant | meaning |
| --- | --- |
| stock | LangServe's `add_routes` on a plain FastAPI application, with LangServe's defaults |
| memory, sqlite, redis | StreamServe, by the store of its runs |
| eager | memory, with `STREAMSERVE_WRITE_INTERVAL=0`: one write for each token |
| starlette, raw | the same bytes without a chain: Starlette's streaming response, bare ASGI messages |
| process | the chain in process, without HTTP; `process model` is the model's own `astream` |
| langserve, streamserve | stock and memory with the chains of the table |
| langgraph | LangGraph's development server (extra `langgraph-server`): `/runs/stream` of the same graph |
"""

FIGURES = """# Figures

<!-- Written by `python -m benchmarks.report.page` from benchmarks/results.json. Run those, not an editor. -->

Look up what each benchmark measured; [performance.md](performance.md) has the targets and explains the variants.
The time to a first token is split by package in `request`; the rest of `latency` is the web server's, the sockets' and
the client's.

{left_out}

{sections}
"""


def render(results: dict[str, Any] | None = None) -> dict[Path, str]:
    """Return the text of each page.

    Args:
        results: default: those of benchmarks/results.json.
    """
    if results is None:
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
    figures = {name: _figures(results[name]) for name in [*COMPARED, *sorted(ALONE)] if name in results}
    left_out = _left_out([figure for each in figures.values() for figure in each.values()])
    sections = "\n\n".join(_section(name, results[name], each) for name, each in figures.items())
    return {
        DOCS / "performance.md": PERFORMANCE.format(targets=_targets(figures), tables=_tables(), left_out=left_out),
        DOCS / "figures.md": FIGURES.format(sections=sections, left_out=left_out),
    }


def _tables() -> str:
    return "\n\n".join(map(_of_versions, tables().values())) or "No version has been measured."


def _of_versions(result: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return "\n".join([f"### {packages}", "", *lines(_figures(result))])


def _figures(result: dict[str, Any]) -> dict[str, Figure]:
    return {name: Figure.read(name, kept) for name, kept in result["figures"].items()}


def _left_out(figures: list[Figure]) -> str:
    rounds, thrown = sum(figure.measured for figure in figures), sum(figure.left_out for figure in figures)
    whole = sum(not figure.is_published for figure in figures)
    return f"Rounds thrown away: {thrown:,} of {rounds:,}. Figures left out: {whole:,} of {len(figures):,}."


def _targets(figures: dict[str, dict[str, Figure]]) -> str:
    rows = (_target(target, figures.get(target.benchmark, {})) for target in TARGETS)
    return _table(("measure", "target", "median", "best round", "kept", "transport alone"), rows)


def _target(target: Target, figures: dict[str, Figure]) -> tuple[str, ...]:
    figure, alone = figures.get(target.figure), figures.get(target.alone)
    if figure is None:
        return target.measure, target.limit, ABSENT, "", "", ""
    if not figure.is_published:
        return target.measure, target.limit, f"{LEFT_OUT}: {_thrown(figure)}", "", "", ""
    best = (max if target.limit.startswith(">") else min)(figure.sound)
    kept = "yes" if target.holds(figure.median) else "no"
    bound = _number(alone.median) if alone and alone.is_published else ""
    return target.measure, target.limit, _number(figure.median), _number(best), kept, bound


def _section(name: str, result: dict[str, Any], figures: dict[str, Figure]) -> str:
    where = f"Python {result['python']}, {result['machine']}; `make bench ARGS={name}`."
    heads = ("figure", "median", "least", "most", "unit", "thrown away")
    return f"## {name}\n\n{inspect.getdoc(BENCHMARKS[name])} {where}\n\n{_table(heads, map(_row, figures.values()))}"


def _row(figure: Figure) -> tuple[str, ...]:
    thrown = _thrown(figure) if figure.left_out else ""
    if not figure.is_published:
        return figure.name.strip(), LEFT_OUT, "", "", figure.unit, thrown
    shown = (figure.median, min(figure.sound), max(figure.sound))
    return figure.name.strip(), *map(_number, shown), figure.unit, thrown


def _thrown(figure: Figure) -> str:
    return f"{figure.left_out} of {figure.measured}"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(_lines(heads, rows))


def _lines(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for line in (heads, tuple("---" for _ in heads), *rows):
        yield f"| {' | '.join(line)} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    for page, text in render().items():
        page.write_text(text, encoding="utf-8")
