"""Waits of a reader and of the loop, and the memory of a token."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial

from benchmarks.plan import Plan, ratio
from benchmarks.results import Figure, report
from benchmarks.rounds import difference, tried
from benchmarks.workload import Order

RATE = 50.0
PROBES = 40
STREAMS = (1, 50, 200)
VARIANTS = ("stock", "memory", "sqlite", "redis")
Wait = tuple[float, float]  # milliseconds: p50, p99


def latency(plan: Plan) -> None:
    """Measure the time to the first token beside paced streams; the bare path takes its turn in every round."""
    figures = []
    for streams in plan.amount(STREAMS, (1, 3)):
        rounds = [tried(partial(_waits, plan, streams), _medians, plan.tries) for _ in range(plan.rounds)]
        thrown = sum(each.thrown for each in rounds)
        for variant in rounds[0].found:
            what = "first token" if variant == "raw" else "first token over raw"
            for at, percentile in enumerate(("p50", "p99")):
                values = [each.found[variant][at] for each in rounds]
                figures.append(Figure(f"{variant}, {streams} streams: {what} {percentile}", "ms", values, thrown))
    report("latency", figures)


def _waits(plan: Plan, streams: int) -> dict[str, Wait]:
    """Return the wait on the bare path, and the difference of each variant to it."""
    raw = _first(plan, "raw", streams)
    waits = {variant: _first(plan, variant, streams) for variant in plan.there(VARIANTS)}
    over = {variant: (difference(p50, raw[0]), difference(p99, raw[1])) for variant, (p50, p99) in waits.items()}
    return {"raw": raw, **over}


def _medians(waits: dict[str, Wait]) -> Iterator[float]:
    # A p99 of 40 probes is nearly their longest: now and then it is below the bare path's in a sound round.
    return (p50 for p50, _ in waits.values())


def _first(plan: Plan, variant: str, streams: int) -> Wait:
    server = plan.fleet[variant]
    found = plan.client.first_tokens(server.port, "text", RATE, streams, plan.amount(PROBES, 3))
    server.settle()
    return statistics.median(found) * 1000, statistics.quantiles(found, n=100, method="inclusive")[98] * 1000


def stall(plan: Plan) -> None:
    """Measure the longest stall of the loop during a stream of many tokens whose model yields after each."""
    figures = []
    for count in plan.amount((4000, 16000), (20, 40)):
        for chain in ("text", "messages"):
            variants = ["raw", *plan.there(VARIANTS)]
            rounds = [{each: _stall(plan, each, chain, count) for each in variants} for _ in range(plan.rounds)]
            for variant in variants:
                name = f"{variant} {chain}, {count} tokens: longest stall"
                figures.append(Figure(name, "ms", [each[variant] for each in rounds]))
    report("stall", figures)


def _stall(plan: Plan, variant: str, chain: str, count: int) -> float:
    server = plan.fleet[variant]
    server.watch()
    plan.client.burst(server.port, chain, Order(count, "yielding"), 1)
    return server.stall() * 1000


def emitted(plan: Plan) -> None:
    """Measure the memory of a token while its stream lives: resident bytes at two lengths."""
    streams, short, long = plan.amount((20, 100, 2100), (2, 5, 25))
    variants = ["raw", *plan.there(VARIANTS)]
    measures = {each: partial(_kept, plan, each, streams, short, long) for each in variants}
    rounds = [
        {name: tried(measure, lambda kept: [kept], plan.tries) for name, measure in measures.items()}
        for _ in range(plan.rounds)
    ]
    kept = {name: [each[name].found for each in rounds] for name in variants}
    thrown = {name: sum(each[name].thrown for each in rounds) for name in variants}
    figures = [Figure(f"{name} text", "bytes per token", kept[name], thrown[name]) for name in variants]
    report("emitted", [*figures, ratio("stock text / memory text", kept["stock"], kept["memory"])])


def _kept(plan: Plan, variant: str, streams: int, short: int, long: int) -> float:
    # Each measurement has a new server: an older one would put new tokens into memory that it has freed.
    with plan.fleet.fresh(variant) as server:
        held = []
        for count in (short, long):
            held.append(plan.client.held(server.port, "text", count, streams))
            server.settle()
    return (held[1] - held[0]) / (streams * (long - short))
