"""The table of docs/performance.md: the chains that people write, LangServe beside StreamServe.

Each chain is served by both, on the versions installed; they take turns within a round. The figures go into a file
of their own for each version of langchain-core, in `benchmarks/tables/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import NamedTuple

from benchmarks.cpu import Pair, Regime, measured
from benchmarks.plan import Plan, ratio
from benchmarks.report.rows import CALLS, ONE, ROWS, SIZE, TABLES, lines
from benchmarks.results import Figure, report
from benchmarks.rounds import Tried, quotient, tried
from benchmarks.workload import Order

PACKAGES = ("langchain-core", "langserve", "langchain-openai", "fastapi", "pydantic", "uvicorn")
VARIANTS = ("langserve", "streamserve")
CONNECTIONS, CALLS_EACH, TOKENS = 8, 150, 20


class Load(NamedTuple):
    """The load of some rows.

    Args:
        chains: their chains.
        streams: number of streams at once.
        short: number of tokens of a short stream.
        long: number of tokens of a long stream.
        traced: whether LangSmith's tracer is on.
    """

    chains: Sequence[str]
    streams: int
    short: int
    long: int
    traced: bool = False


def main(plan: Plan) -> None:
    """Measure the chains that people write, 50 streams at once (20 with a model server), and calls of /invoke."""
    many, short, long = plan.amount((50, 20, 220), (2, 5, 25))
    plain = [row.chain for row in ROWS if row.chain not in ("openai", "json")]
    items = plan.amount(400, 5)
    loads = [
        Load(list(dict.fromkeys(plain)), many, short, long),
        Load(["openai"], plan.amount(20, 2), short, long),
        Load(["json"], many, 1, items),
        Load(["text"], many, short, long, traced=True),
    ]
    found = {figure.name: figure for load in loads for figure in _figures(plan, load)}
    found |= {figure.name: figure for figure in _calls(plan)}
    figures = {name: found[name] for row in ROWS for name in (*row.figures, row.ratio)}
    versions = {name: version(name) for name in PACKAGES}
    report("table", list(figures.values()), TABLES / f"{versions['langchain-core']}.json", versions=versions)
    print(*lines(figures), sep="\n")


def _figures(plan: Plan, load: Load) -> list[Figure]:
    names = [f"{variant} traced" if load.traced else variant for variant in VARIANTS]
    pairs: list[Pair] = [(name, chain) for chain in load.chains for name in names]
    ratios = [(f"{names[0]} {chain}", f"{names[1]} {chain}") for chain in load.chains]
    regime = Regime("table", load.streams, "yielding", load.short, load.long, pairs, ratios, load.traced)
    figures = {figure.name: figure for figure in measured(plan, regime)}
    for above, below in ratios:
        for what in (ONE, SIZE):
            theirs, ours = figures[above + what], figures[below + what]
            compared = ratio(f"{theirs.name} / {ours.name}", theirs.values, ours.values)
            figures[compared.name] = compared
    return list(figures.values())


def _calls(plan: Plan) -> list[Figure]:
    for variant in VARIANTS:
        _cost(plan, variant)
    rounds = [{variant: _tried(plan, variant) for variant in VARIANTS} for _ in range(plan.rounds)]
    rates = {variant: [quotient(1e6, each[variant].found) for each in rounds] for variant in VARIANTS}
    thrown = {variant: sum(each[variant].thrown for each in rounds) for variant in VARIANTS}
    figures = [Figure(f"{name} {CALLS}", "calls per second of CPU", rates[name], thrown[name]) for name in VARIANTS]
    theirs, ours = figures
    return [theirs, ours, ratio(f"{ours.name} / {theirs.name}", ours.values, theirs.values)]


def _tried(plan: Plan, variant: str) -> Tried[float]:
    return tried(lambda: _cost(plan, variant), lambda cost: [cost], plan.tries)


def _cost(plan: Plan, variant: str) -> float:
    """Return microseconds of the server's CPU for a call of /invoke."""
    times = plan.amount(CALLS_EACH, 2)
    server = plan.fleet[variant]
    before = server.cpu()
    tokens = plan.client.calls(server.port, "text", Order(TOKENS, "yielding"), CONNECTIONS, times)
    assert tokens >= TOKENS * CONNECTIONS * times
    return (server.cpu() - before) / (CONNECTIONS * times) * 1e6
