"""CPU of the server per token and per request, by the server's own accounting over all threads.

Each round reads short and long streams: the difference is what tokens cost, the rest what a request costs. Variants
take turns within a round. Figures are named `{variant} {chain}`; `model` is the model's own `astream` in process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.plan import Plan, ratio
from benchmarks.results import Figure, report
from benchmarks.workload import Order

Pair = tuple[str, str]


@dataclass(frozen=True)
class Regime:
    """How a server is loaded.

    Args:
        name: of the benchmark.
        streams: at once.
        pace: of the model, see `Order`.
        short: tokens of a short stream.
        long: tokens of a long stream.
        pairs: variants and chains to compare.
        ratios: pairs of names, the dearer first.
    """

    name: str
    streams: int
    pace: str
    short: int
    long: int
    pairs: Sequence[Pair]
    ratios: Sequence[tuple[str, str]]


class Cost(NamedTuple):
    """Of one variant in one round: microseconds of CPU, and bytes on the wire."""

    token: float
    request: float
    size: float


SERVED: Sequence[Pair] = [
    *(
        (variant, chain)
        for chain in ("text", "messages")
        for variant in ("stock", "memory", "eager", "sqlite", "redis")
    ),
    *((variant, "text") for variant in ("starlette", "raw", "process")),
    *((variant, "messages") for variant in ("raw", "process")),
    ("process", "model"),
]
AGAINST: Sequence[tuple[str, str]] = [
    *((f"stock {chain}", f"memory {chain}") for chain in ("text", "messages")),
    *((f"memory {chain}", "process model") for chain in ("text", "messages")),
    *((f"memory {chain}", f"raw {chain}") for chain in ("text", "messages")),
    *((f"stock {chain}", f"raw {chain}") for chain in ("text", "messages")),
    *((f"{store} text", "memory text") for store in ("sqlite", "redis")),
]
GRAPH: Sequence[Pair] = [("memory", "graph"), ("process", "graph"), ("raw", "messages"), ("langgraph", "runs")]
OPENAI: Sequence[Pair] = [("stock", "openai"), ("memory", "openai"), ("raw", "text")]


def hot(plan: Plan) -> None:
    """One firehose: the model never yields to the loop."""
    short, long = plan.amount((100, 4100), (5, 25))
    _measure(plan, Regime("hot", 1, "hot", short, long, SERVED, AGAINST))


def saturated(plan: Plan) -> None:
    """50 streams at once, a model that yields to the loop per token."""
    streams, short, long = plan.amount((50, 20, 220), (2, 5, 25))
    _measure(plan, Regime("saturated", streams, "yielding", short, long, SERVED, AGAINST))


def graph(plan: Plan) -> None:
    """A graph in its message mode, 50 streams at once; stock LangServe streams no tokens of graphs."""
    streams, short, long = plan.amount((50, 20, 220), (2, 5, 25))
    ratios = [("memory graph", "process graph"), ("langgraph runs", "memory graph")]
    _measure(plan, Regime("graph", streams, "yielding", short, long, GRAPH, ratios))


def openai(plan: Plan) -> None:
    """A chain whose model is a ChatOpenAI in front of a model server in another process, 50 streams at once."""
    streams, short, long = plan.amount((50, 20, 120), (2, 5, 25))
    ratios = [("stock openai", "memory openai")]
    _measure(plan, Regime("openai", streams, "yielding", short, long, OPENAI, ratios))


def _measure(plan: Plan, regime: Regime) -> None:
    pairs = [pair for pair in regime.pairs if plan.there([pair[0]])]
    for pair in pairs:  # starts the servers, and makes them import what they import late
        _cost(plan, regime, pair)
    rounds = [{" ".join(pair): _cost(plan, regime, pair) for pair in pairs} for _ in range(plan.rounds)]
    tokens = {name: [each[name].token for each in rounds] for name in rounds[0]}
    figures = [Figure(name, "us per token", values) for name, values in tokens.items()]
    figures += [
        ratio(f"{above} / {below}", tokens[above], tokens[below])
        for above, below in regime.ratios
        if above in tokens and below in tokens
    ]
    figures += [Figure(f"{name}: request", "us", [each[name].request for each in rounds]) for name in tokens]
    figures += [
        Figure(f"{name}: size", "bytes per token", [each[name].size for each in rounds])
        for name in tokens
        if not name.startswith("process")
    ]
    report(regime.name, figures)


def _cost(plan: Plan, regime: Regime, pair: Pair) -> Cost:
    variant, chain = pair
    server, used, sizes = plan.fleet[variant], [plan.fleet[variant].cpu()], []
    for count in (regime.short, regime.long):
        burst = plan.client.burst(server.port, chain, Order(count, regime.pace), regime.streams)
        used.append(server.cpu())
        sizes.append(burst.bytes)
        assert variant == "process" or burst.tokens >= count * regime.streams, (pair, burst)
    tokens = regime.streams * (regime.long - regime.short)
    short, long = used[1] - used[0], used[2] - used[1]
    token = (long - short) / tokens
    request = short / regime.streams - token * regime.short
    return Cost(token * 1e6, request * 1e6, (sizes[1] - sizes[0]) / tokens)
