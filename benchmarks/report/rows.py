"""The rows of the table of chains that people write, and its lines from the figures of one set of versions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.results import Figure

TABLES = Path(__file__).parents[1] / "tables"
CALLS = "text: calls of /invoke"
ONE, SIZE = ": request of one token", ": size"
ABSENT = "not measured yet"


class Row(NamedTuple):
    """A chain and what is wanted of it.

    Args:
        title: its name for people.
        chain: its name in the benchmark.
        wanted: LangServe's cost over StreamServe's, at least.
        what: suffix of the figures' names, for another quantity than CPU per token.
        traced: whether LangSmith's tracer is on.
    """

    title: str
    chain: str
    wanted: float
    what: str = ""
    traced: bool = False

    @property
    def figures(self) -> tuple[str, str]:
        """The names of both figures, LangServe's first."""
        suffix = f"{' traced' if self.traced else ''} {self.chain}{self.what}"
        return f"langserve{suffix}", f"streamserve{suffix}"

    @property
    def ratio(self) -> str:
        """The name of the figure that says how much better StreamServe is."""
        theirs, ours = self.figures
        return f"{ours} / {theirs}" if CALLS in ours else f"{theirs} / {ours}"


ROWS = (
    Row("prompt, model, text parser", "text", 10),
    Row("prompt, model", "messages", 6),
    Row("`RunnablePassthrough.assign(context=...)`, prompt, model, parser", "rag", 9),
    Row("a generator step at the end", "generator", 8),
    Row("a configurable model", "configurable", 7),
    Row("a model with fallbacks", "fallbacks", 6),
    Row("a ChatOpenAI against a model server, 20 streams", "openai", 10),
    Row("a model with `_stream` only", "sync", 5),
    Row("a handler that is not inline", "handler", 4.5),
    Row("an async handler", "async_handler", 4),
    Row("LangSmith's tracer, inline, against a local endpoint", "text", 5, traced=True),
    Row("JsonOutputParser, 400 items", "json", 10),
    Row("JsonOutputParser, 400 items: bytes per token", "json", 10, SIZE),
    Row("a stream of one token, us per request", "text", 5, ONE),
    Row("`/invoke`, calls per second of CPU", "text", 3, CALLS.removeprefix("text")),
)


def lines(figures: Mapping[str, Figure]) -> Iterator[str]:
    """Yield the lines of the table in Markdown: medians, and the range of the ratio."""
    for cells in (("chain", "LangServe", "StreamServe", "ratio", "least", "most", "wanted"), ("---",) * 7):
        yield f"| {' | '.join(cells)} |"
    for row in ROWS:
        yield f"| {' | '.join((row.title, *_cells(row, figures), f'>= {row.wanted:g}'))} |"


def tables(folder: Path = TABLES) -> dict[tuple[int, ...], Any]:
    """Return the kept results by the version of langchain-core, the newest last."""
    kept = {tuple(map(int, path.stem.split("."))): path for path in folder.glob("*.json")}
    return {number: json.loads(kept[number].read_text(encoding="utf-8"))["table"] for number in sorted(kept)}


def _cells(row: Row, figures: Mapping[str, Figure]) -> tuple[str, ...]:
    found = [figures.get(name) for name in (*row.figures, row.ratio)]
    theirs, ours, ratio = found
    if theirs is None or ours is None or ratio is None:
        return ABSENT, "", "", "", ""
    shown = [_number(each.median) if each.is_published else "left out" for each in (theirs, ours)]
    if not ratio.is_published:
        return *shown, "left out", "", ""
    return *shown, *map(_number, (ratio.median, min(ratio.sound), max(ratio.sound)))


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
