"""A run under way, and what happens when it has no readers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from streamserve.runs.run import Run


class LiveRun:
    """A run under way.

    Args:
        run: the run.
        grace: seconds without readers until it is given up; None: it goes on without any.
        on_orphaned: called after that time.
    """

    __slots__ = ("_grace", "_on_orphaned", "_orphaned", "run")

    def __init__(self, run: Run, grace: float | None, on_orphaned: Callable[[Run], None]) -> None:
        self.run = run
        self._grace = grace
        self._on_orphaned = on_orphaned
        self._orphaned: asyncio.TimerHandle | None = None

    def orphan(self) -> None:
        """Its last reader has left, or none has come yet."""
        self.watch()
        if self._grace is not None:
            self._orphaned = asyncio.get_running_loop().call_later(self._grace, self._on_orphaned, self.run)

    def watch(self) -> None:
        """A reader has come, or the run has ended."""
        if self._orphaned is not None:
            self._orphaned.cancel()
            self._orphaned = None
