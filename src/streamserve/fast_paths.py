"""The fast paths: rewrites of the work that dependencies do for each token, and whether each has proved itself.

A fast path is on only after it did the same as the installed dependency, so an upgrade may cost speed, never a promise.
"""

import logging
from dataclasses import dataclass

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FastPath:
    """One fast path.

    Args:
        name: the name in logs and metrics.
        saves: how much the fast path saves.
        difference: how it differs from what it replaces, or None if it does the same.
    """

    name: str
    saves: str
    difference: str | None

    @property
    def is_on(self) -> bool:
        """True while it is used."""
        return self.difference is None


_noted: dict[str, FastPath] = {}


def note(path: FastPath) -> bool:
    """Keep what a fast path has shown, and return whether it is on; a warning names one that is off."""
    _noted[path.name] = path
    if not path.is_on:
        logger.warning("fast path off: %s (%s); it saves %s", path.name, path.difference, path.saves)
    return path.is_on


def noted() -> tuple[FastPath, ...]:
    """Return the fast paths that have been checked in this process."""
    return tuple(_noted.values())
