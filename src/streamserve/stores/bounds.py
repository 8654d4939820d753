"""Bounds of the ended runs that a store keeps."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of ended runs. Past a maximum the oldest are dropped first.

    Args:
        retention: seconds that the blocks of an ended run are kept.
        tombstone: seconds that its record is kept after that.
        max_runs: number of ended runs.
        max_bytes: bytes of the blocks and outputs of all ended runs, before compression.
    """

    retention: float = 3600.0
    tombstone: float = 86_400.0
    max_runs: int = 10_000
    max_bytes: int = 256 * 2**20


DEFAULT_BOUNDS = Bounds()
