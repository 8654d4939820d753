"""A timer in the event loop that measures how late it fires, and keeps the gauges of open runs up to date."""

import asyncio
from types import TracebackType
from typing import Self

from streamserve.fast_paths import noted
from streamserve.runs.runs import Runs
from streamserve.telemetry.metrics import Metrics

# Seconds between two ticks: four a second cost nothing, and a longer stop of the loop is measured whole.
INTERVAL = 0.25
# Ticks between two refreshes of the gauges.
REFRESH_EVERY = 4


class LoopMonitor:
    """Monitors the event loop while its `with` block runs."""

    def __init__(self, metrics: Metrics, runs: Runs) -> None:
        self._metrics = metrics
        self._runs = runs
        self._ticks = 0

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._schedule()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _place: TracebackType | None) -> None:
        self._timer.cancel()
        refresh(self._metrics, self._runs)

    def _schedule(self) -> None:
        self._due = self._loop.time() + INTERVAL
        self._timer = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        self._metrics.lag.observe(max(0.0, self._loop.time() - self._due))
        self._ticks += 1
        if self._ticks % REFRESH_EVERY == 0:
            refresh(self._metrics, self._runs)
        self._schedule()


def refresh(metrics: Metrics, runs: Runs) -> None:
    """Bring the metrics up to date with the open and the retained runs."""
    metrics.flush()
    load = runs.load()
    metrics.live_runs.set(load.runs)
    metrics.open_calls.set(load.calls)
    metrics.open_streams.set(load.readers)
    metrics.store_down.set(load.store_down)
    metrics.draining.set(runs.draining)
    for path in noted():
        metrics.fast_paths.labels(path.name).set(path.is_on)
    retained = runs.store.retained
    metrics.retained_runs.set(retained.runs)
    metrics.retained_bytes.set(retained.bytes)
