"""Rounds that make no sense: their recognition, and the measurement that replaces them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

TRIES = 3  # measurements in one round; a fault that remains is a fault of the benchmark
# Of a figure, in its unit: results.json keeps three decimals, and a difference of two clocks is no finer.
RESOLUTION = 0.001
LARGEST_RATIO = 1e6  # above it, the denominator was next to nothing
COUNTS = ("streams", "tokens")
RATIOS = ("x", "ratio")
T = TypeVar("T")


class Tried(NamedTuple, Generic[T]):
    """A measurement and the number of those thrown away before it."""

    found: T
    thrown: int


def makes_sense(value: float, unit: str = "") -> bool:
    """Return whether a figure can be true: a cost and a ratio are positive, a count is not negative.

    Args:
        value: value of one round.
        unit: unit of the figure; counts may be zero, ratios have an upper bound.
    """
    if not math.isfinite(value):
        return False
    if unit in COUNTS:
        return value >= 0
    return RESOLUTION <= value <= (LARGEST_RATIO if unit in RATIOS else math.inf)


def quotient(above: float, below: float) -> float:
    """Return `above / below`, or NaN if one of them makes no sense."""
    return above / below if makes_sense(above) and makes_sense(below) else math.nan


def difference(above: float, below: float) -> float:
    """Return `above - below`, or NaN if one of them makes no sense."""
    return above - below if makes_sense(above) and makes_sense(below) else math.nan


def tried(measure: Callable[[], T], costs: Callable[[T], Iterable[float]], tries: int = TRIES) -> Tried[T]:
    """Measure until all costs make sense; after the last try, return what it found.

    Args:
        measure: function that makes one measurement.
        costs: function that returns the costs of a measurement which must make sense.
        tries: upper bound of measurements.
    """
    for thrown in range(tries - 1):
        found = measure()
        if all(map(makes_sense, costs(found))):
            return Tried(found, thrown)
    return Tried(measure(), tries - 1)
