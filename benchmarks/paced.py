"""The number of streams of 50 tokens/s that one core carries: the largest at which the tokens arrive in time.

A number holds if at least 98 % of the tokens due arrive and 99 % of the gaps are under 100 ms. If a number does not
hold, the bare path is tried at the same number. If that fails too, the machine was at fault: the attempt is repeated.
"""

from __future__ import annotations

from benchmarks.load import Paced
from benchmarks.plan import Plan, ratio
from benchmarks.results import Figure, report

RATE = 50.0
SHARE = 0.98
GAP = 0.1
FINENESS = 1.05  # between the number that holds and the one that does not
KNOWN = 1.15  # step of a search that begins at the number of the round before
ATTEMPTS = 3
MOST = 1600  # at 80,000 tokens/s the client is the limit
PAIRS = [("stock", "text"), ("memory", "text"), ("stock", "messages"), ("memory", "messages")]
OPENAI = [("stock", "openai"), ("memory", "openai")]


def main(plan: Plan) -> None:
    """Measure with the model in process."""
    _report(plan, "paced", PAIRS)


def openai(plan: Plan) -> None:
    """Measure with a ChatOpenAI and a model server in another process, on the client's core."""
    _report(plan, "paced_openai", OPENAI)


def _report(plan: Plan, name: str, pairs: list[tuple[str, str]]) -> None:
    found: dict[str, list[float]] = {" ".join(pair): [] for pair in pairs}
    for _ in range(plan.rounds):
        for variant, chain in pairs:
            known, search = found[f"{variant} {chain}"], Search(plan, variant, chain)
            known.append(search.largest(int(known[-1]), KNOWN) if known else search.largest(plan.amount(50, 4)))
    figures = [Figure(f"{each}: streams", "streams", values) for each, values in found.items()]
    chains = dict.fromkeys(chain for _, chain in pairs)
    figures += [
        ratio(f"memory {chain} / stock {chain}", found[f"memory {chain}"], found[f"stock {chain}"]) for chain in chains
    ]
    report(name, figures)


class Search:
    """A search for the largest number of streams that a server carries."""

    def __init__(self, plan: Plan, variant: str, chain: str) -> None:
        self._plan = plan
        self._variant = variant
        self._chain = chain
        self._window = plan.amount(3.0, 0.3)

    def largest(self, guess: int, step: float = 2.0) -> int:
        """Return the number; 0 if not even one stream holds.

        Args:
            guess: number to begin with.
            step: factor to the next number while all hold, or none.
        """
        if self._plan.quick:
            self.holds(guess)
            return guess
        good, bad = 0, MOST + 1
        number = guess
        while good < MOST and bad > max(good + 1, good * FINENESS):
            if self.holds(number):
                good, number = number, min(MOST, round(number * step) + 1 if bad > MOST else (number + bad) // 2)
            else:
                bad, number = number, (good + number) // 2 if good else int(number / step)
        return good

    def holds(self, number: int) -> bool:
        """Return whether the server carries `number` streams; False if the machine does not."""
        for _ in range(ATTEMPTS):
            if _is_clean(self._tried(self._variant, self._chain, number)):
                return True
            if _is_clean(self._tried("raw", "text", number)):
                return False
        return False

    def _tried(self, variant: str, chain: str, number: int) -> Paced:
        server = self._plan.fleet[variant]
        result = self._plan.client.paced(server.port, chain, RATE, number, self._window)
        server.settle()
        return result


def _is_clean(result: Paced) -> bool:
    return result.share >= SHARE and result.gap_p99 < GAP
