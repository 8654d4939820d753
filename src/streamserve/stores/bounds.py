"""How long ended runs are kept, and how many."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a store keeps of ended runs.

    Args:
        retention: seconds that an ended run's blocks are kept.
        tombstone: seconds that its record is kept after that.
        max_runs: ended runs kept at most; the oldest go first.
        max_bytes: of the blocks of ended runs together, before compression; the oldest go first.
    """

    retention: float = 3600.0
    tombstone: float = 86_400.0
    max_runs: int = 10_000
    max_bytes: int = 256 * 2**20


DEFAULT_BOUNDS = Bounds()
