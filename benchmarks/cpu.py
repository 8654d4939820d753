"""CPU of the server per token and per request, by the server's own accounting over all threads.

Each round reads short and long streams: their difference is the cost of tokens. The cost of a request is that of a
stream of one token; an intercept of the line through both lengths would be the line's error times a whole stream.
Variants take turns within a round. Figures are named `{variant} {chain}`; `model` is the model's own `astream` in
process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.plan import Plan, ratio
from benchmarks.results import Figure, report
from benchmarks.rounds import Tried, tried
from benchmarks.workload import Order

ONE_TOKEN_STREAMS = 100  # in each round; together they take the server 0.1 s
Pair = tuple[str, str]


@dataclass(frozen=True)
class Regime:
    """The load of a benchmark.

    Args:
        name: name of the benchmark.
        streams: number of streams at once.
        pace: pace of the model, see `Order`.
        short: number of tokens of a short stream.
        long: number of tokens of a long stream.
        pairs: variants and chains to compare.
        ratios: pairs of names, the dearer first.
        settles: count what a server's own OS threads do after a stream, too (default false).
    """

    name: str
    streams: int
    pace: str
    short: int
    long: int
    pairs: Sequence[Pair]
    ratios: Sequence[tuple[str, str]]
    settles: bool = False


class Cost(NamedTuple):
    """Cost of one variant in one round.

    Args:
        token: microseconds of CPU for a token of a long stream.
        request: microseconds of CPU for a stream of one token.
        size: bytes on the wire for a token.
    """

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
    """Measure one stream as fast as it comes: the model never yields to the loop."""
    short, long = plan.amount((100, 4100), (5, 25))
    _measure(plan, Regime("hot", 1, "hot", short, long, SERVED, AGAINST))


def saturated(plan: Plan) -> None:
    """Measure 50 streams at once, with a model that yields to the loop after each token."""
    streams, short, long = plan.amount((50, 20, 220), (2, 5, 25))
    _measure(plan, Regime("saturated", streams, "yielding", short, long, SERVED, AGAINST))


def graph(plan: Plan) -> None:
    """Measure a graph in message mode, 50 streams at once; LangServe streams no tokens of graphs."""
    streams, short, long = plan.amount((50, 20, 220), (2, 5, 25))
    ratios = [("memory graph", "process graph"), ("langgraph runs", "memory graph")]
    _measure(plan, Regime("graph", streams, "yielding", short, long, GRAPH, ratios))


def openai(plan: Plan) -> None:
    """Measure a chain with a ChatOpenAI and a model server in another process, 50 streams at once."""
    streams, short, long = plan.amount((50, 20, 120), (2, 5, 25))
    ratios = [("stock openai", "memory openai")]
    _measure(plan, Regime("openai", streams, "yielding", short, long, OPENAI, ratios))


def _measure(plan: Plan, regime: Regime) -> None:
    report(regime.name, measured(plan, regime))


def measured(plan: Plan, regime: Regime) -> list[Figure]:
    """Return the costs of a regime's variants, and their ratios."""
    pairs = [pair for pair in regime.pairs if plan.there([pair[0]])]
    for pair in pairs:  # starts the servers, and lets them do their late imports
        _used(plan, regime, pair, regime.short)
    rounds = [{" ".join(pair): _tried(plan, regime, pair) for pair in pairs} for _ in range(plan.rounds)]
    costs = {name: [each[name].found for each in rounds] for name in rounds[0]}
    thrown = {name: sum(each[name].thrown for each in rounds) for name in costs}
    tokens = {name: [cost.token for cost in found] for name, found in costs.items()}
    figures = [Figure(name, "us per token", values, thrown[name]) for name, values in tokens.items()]
    figures += [
        ratio(f"{above} / {below}", tokens[above], tokens[below])
        for above, below in regime.ratios
        if above in tokens and below in tokens
    ]
    figures += [
        Figure(f"{name}: request of one token", "us", [cost.request for cost in found], thrown[name])
        for name, found in costs.items()
    ]
    return figures + [
        Figure(f"{name}: size", "bytes per token", [cost.size for cost in found])
        for name, found in costs.items()
        if not name.startswith("process")
    ]


def _tried(plan: Plan, regime: Regime, pair: Pair) -> Tried[Cost]:
    return tried(lambda: _cost(plan, regime, pair), lambda cost: (cost.token, cost.request), plan.tries)


def _cost(plan: Plan, regime: Regime, pair: Pair) -> Cost:
    times = max(1, plan.amount(ONE_TOKEN_STREAMS, 1) // regime.streams)
    one, _ = _used(plan, regime, pair, 1, times)
    short, short_size = _used(plan, regime, pair, regime.short)
    long, long_size = _used(plan, regime, pair, regime.long)
    tokens = regime.streams * (regime.long - regime.short)
    request = one / (regime.streams * times)
    return Cost((long - short) / tokens * 1e6, request * 1e6, (long_size - short_size) / tokens)


def _used(plan: Plan, regime: Regime, pair: Pair, count: int, times: int = 1) -> tuple[float, int]:
    """Read streams of `count` tokens, all at once, some times; return seconds of the server's CPU, and bytes."""
    variant, chain = pair
    server, size = plan.fleet[variant], 0
    before = server.cpu()
    for _ in range(times):
        burst = plan.client.burst(server.port, chain, Order(count, regime.pace), regime.streams)
        assert variant == "process" or burst.tokens >= count * regime.streams, (pair, burst)
        size += burst.bytes
    if regime.settles:
        server.settle()
    return server.cpu() - before, size
