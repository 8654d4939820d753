"""What a reader or the loop waits for, and what a token leaves in memory."""

from __future__ import annotations

import statistics

from benchmarks.plan import Plan, ratio
from benchmarks.results import Figure, report
from benchmarks.workload import Order

RATE = 50.0
STREAMS = (1, 50, 200)
VARIANTS = ("stock", "memory", "sqlite", "redis")


def latency(plan: Plan) -> None:
    """Time to the first token of a request beside paced streams; the bare path takes its turn in every round."""
    figures = []
    for streams in plan.amount(STREAMS, (1, 3)):
        variants = ["raw", *plan.there(VARIANTS)]
        rounds = [{each: _first(plan, each, streams) for each in variants} for _ in range(plan.rounds)]
        for variant in variants:
            p50 = [each[variant][0] - (each["raw"][0] if variant != "raw" else 0) for each in rounds]
            p99 = [each[variant][1] - (each["raw"][1] if variant != "raw" else 0) for each in rounds]
            what = "first token" if variant == "raw" else "first token over raw"
            figures.append(Figure(f"{variant}, {streams} streams: {what} p50", "ms", p50))
            figures.append(Figure(f"{variant}, {streams} streams: {what} p99", "ms", p99))
    report("latency", figures)


def _first(plan: Plan, variant: str, streams: int) -> tuple[float, float]:
    server = plan.fleet[variant]
    probes = plan.amount(40, 3)
    found = plan.client.first_tokens(server.port, "text", RATE, streams, probes)
    server.settle()
    return statistics.median(found) * 1000, statistics.quantiles(found, n=100, method="inclusive")[98] * 1000


def stall(plan: Plan) -> None:
    """The longest time in which the loop did nothing else, in a stream of many tokens whose model yields per token."""
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
    """Memory that a token takes as long as its stream lives: resident bytes at two lengths."""
    streams, short, long = plan.amount((20, 100, 2100), (2, 5, 25))
    variants = ["raw", *plan.there(VARIANTS)]
    rounds = [{each: _kept(plan, each, streams, short, long) for each in variants} for _ in range(plan.rounds)]
    figures = [Figure(f"{name} text", "bytes per token", [each[name] for each in rounds]) for name in variants]
    stock, memory = ([each[name] for each in rounds] for name in ("stock", "memory"))
    report("emitted", [*figures, ratio("stock text / memory text", stock, memory)])


def _kept(plan: Plan, variant: str, streams: int, short: int, long: int) -> float:
    # A server of its own: one that has served holds freed memory, into which new tokens go unseen.
    with plan.fleet.fresh(variant) as server:
        held = []
        for count in (short, long):
            held.append(plan.client.held(server.port, "text", count, streams))
            server.settle()
    return (held[1] - held[0]) / (streams * (long - short))
