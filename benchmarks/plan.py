"""The arguments of every benchmark: servers, load client, and amount of work."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.load import Client
from benchmarks.results import Figure
from benchmarks.rounds import TRIES, quotient
from benchmarks.servers.fleet import Fleet

ROUNDS = 5
T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """One run of benchmarks.

    Args:
        fleet: servers of the variants.
        client: load client.
        quick: only show that everything works, with a few tokens.
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
        """Return one of two amounts of work: the whole one, or the quick one."""
        return quick if self.quick else whole

    def there(self, variants: Sequence[str]) -> list[str]:
        """Return the variants that this machine has: redis-server and LangGraph's server (an extra) may be missing."""
        absent = {
            "redis": "redis" not in self.fleet.stores,
            "langgraph": importlib.util.find_spec("langgraph_api") is None,
        }
        return [variant for variant in variants if not absent.get(variant)]


def ratio(name: str, above: Sequence[float], below: Sequence[float]) -> Figure:
    """Return the ratio of two quantities, round by round."""
    return Figure(name, "x", [quotient(*pair) for pair in zip(above, below, strict=True)])
