"""What every benchmark of servers is given: the servers, the client, and how much to do."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.load import Client
from benchmarks.results import Figure
from benchmarks.rounds import TRIES, quotient
from benchmarks.servers import Fleet

ROUNDS = 5
T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """One run of benchmarks.

    Args:
        fleet: the servers.
        client: what loads them.
        quick: only show that everything works: one round of a few tokens.
        rounds: number of times that each measurement is made.
        first: number of the first round; a benchmark whose rounds differ begins with this one.
    """

    fleet: Fleet
    client: Client
    quick: bool = False
    rounds: int = ROUNDS
    first: int = 0

    @property
    def tries(self) -> int:
        """Upper bound of measurements in one round; a few tokens have no cost that makes sense."""
        return 1 if self.quick else TRIES

    def amount(self, whole: T, quick: T) -> T:
        """How much to do: all, or what shows that it works."""
        return quick if self.quick else whole

    def there(self, variants: Sequence[str]) -> list[str]:
        """Those of the variants that this machine has: not without redis-server, or LangGraph's server (an extra)."""
        absent = {
            "redis": "redis" not in self.fleet.stores,
            "langgraph": importlib.util.find_spec("langgraph_api") is None,
        }
        return [variant for variant in variants if not absent.get(variant)]


def ratio(name: str, above: Sequence[float], below: Sequence[float]) -> Figure:
    """Return the ratio of two quantities, round by round."""
    return Figure(name, "x", [quotient(*pair) for pair in zip(above, below, strict=True)])
