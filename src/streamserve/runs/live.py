"""A run that this process executes, with the timer that starts when it has no readers."""

import asyncio
from collections.abc import Callable

from streamserve.runs.run import Run


class LiveRun:
    """A run that this process executes; `on_orphaned` is called after `grace` seconds without readers, if not None."""

    __slots__ = ("_grace", "_on_orphaned", "_timer", "run")

    def __init__(self, run: Run, grace: float | None, on_orphaned: Callable[[Run], None]) -> None:
        self.run = run
        self._grace = grace
        self._on_orphaned = on_orphaned
        self._timer: asyncio.TimerHandle | None = None

    def start_orphan_timer(self, *, at_least: float = 0.0) -> None:
        """Start the timer, because the last reader left or none has come yet; `at_least` in seconds."""
        self.stop_orphan_timer()
        if self._grace is not None:
            self._timer = asyncio.get_running_loop().call_later(max(self._grace, at_least), self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._on_orphaned(self.run)

    @property
    def is_waiting(self) -> bool:
        """True while the timer runs."""
        return self._timer is not None

    def stop_orphan_timer(self) -> None:
        """Stop the timer, because a reader came or the run ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
