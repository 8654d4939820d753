"""A timer in the event loop: measures how late it comes, and looks at what is open meanwhile."""

from __future__ import annotations

import asyncio
from types import TracebackType

from streamserve.runs.runs import Runs
from streamserve.telemetry.metrics import Metrics

# Seconds: four looks a second cost nothing, and a stop of the loop that lasts longer is seen whole.
BEAT = 0.25
# Beats between two looks at what is open.
LOOK = 4


class Pulse:
    """Beats as long as the block lasts.

    Args:
        metrics: to fill.
        runs: to look at.
    """

    def __init__(self, metrics: Metrics, runs: Runs) -> None:
        self._metrics = metrics
        self._runs = runs
        self._beats = 0

    def __enter__(self) -> Pulse:
        self._loop = asyncio.get_running_loop()
        self._await_beat()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _place: TracebackType | None) -> None:
        self._timer.cancel()
        look(self._metrics, self._runs)

    def _await_beat(self) -> None:
        self._due = self._loop.time() + BEAT
        self._timer = self._loop.call_at(self._due, self._beat)

    def _beat(self) -> None:
        self._metrics.lag.observe(max(0.0, self._loop.time() - self._due))
        self._beats += 1
        if self._beats % LOOK == 0:
            look(self._metrics, self._runs)
        self._await_beat()


def look(metrics: Metrics, runs: Runs) -> None:
    """Brings the metrics up to date with what is open.

    Args:
        metrics: to fill.
        runs: to look at.
    """
    metrics.flush()
    load = runs.load()
    metrics.live_runs.set(load.runs)
    metrics.open_calls.set(load.calls)
    metrics.open_streams.set(load.readers)
    metrics.store_down.set(load.store_down)
    metrics.draining.set(runs.draining)
    retained = runs.store.retained
    metrics.retained_runs.set(retained.runs)
    metrics.retained_bytes.set(retained.bytes)
