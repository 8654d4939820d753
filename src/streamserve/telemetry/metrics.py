"""The metrics: their names, labels and bounds. docs/operations.md lists them.

The only labels are chain, endpoint and state: the team bounds their values, and callers cannot add any.
"""

import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache
from time import monotonic

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from streamserve.private_names.prometheus_client import observe_many
from streamserve.telemetry.workers import SHARED

# Seconds. From a local model's gap of a millisecond to a pause that looks like the end of the stream.
GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
DURATIONS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
WRITES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)
LAGS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

BY_CHAIN = ("chain",)
BY_ENDPOINT = ("chain", "endpoint")


class Meter:
    """The gaps between blocks of one chain's endpoint since the last flush. Only the event loop's thread uses it."""

    __slots__ = ("_blocks", "_gaps", "counts", "first", "total")

    def __init__(self, gaps: Histogram, blocks: Counter) -> None:
        self._gaps = gaps
        self._blocks = blocks
        self._clear()

    def _clear(self) -> None:
        self.first = 0
        self.total = 0.0
        self.counts = [0] * (len(GAPS) + 1)

    def flush(self) -> None:
        """Add the gaps to the metrics."""
        blocks = self.first + sum(self.counts)
        if not blocks:
            return
        counts, total = self.counts, self.total
        self._clear()
        self._blocks.inc(blocks)
        observe_many(self._gaps, GAPS, counts, total)


class Metrics:
    """The metrics of one process. With several processes, prometheus_client keeps them in PROMETHEUS_MULTIPROC_DIR."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.runs = self._counter("runs", "Runs and calls that have ended.", (*BY_ENDPOINT, "state"))
        self.duration = self._histogram("run_seconds", "From the request to the end.", DURATIONS, BY_ENDPOINT)
        self.first_token = self._histogram(
            "first_token_seconds", "From the request to the first block of a stream.", FIRST_TOKEN, BY_ENDPOINT
        )
        self.gaps = self._histogram("token_gap_seconds", "Between two blocks of a stream.", GAPS, BY_ENDPOINT)
        self.blocks = self._counter("blocks", "Blocks that chains made: one per token or chunk.", BY_ENDPOINT)
        self.resumes = self._counter("resumes", "Readers that came back or joined a run.", BY_CHAIN)
        self.cancels = self._counter("cancels", "Requests to cancel a run.", BY_CHAIN)
        self.recoveries = self._counter("recoveries", "Runs that this worker went on with for another.", BY_CHAIN)
        self.answers = self._counter("http_answers", "HTTP answers by status code.", ("state",))
        self.writes = self._histogram(
            "store_write_seconds", "Until the store has acknowledged blocks; no memory store.", WRITES
        )
        self.lag = self._histogram("event_loop_lag_seconds", "How late the event loop is for a timer.", LAGS)
        self.open_streams = self._gauge("open_streams", "Readers that are connected.")
        self.live_runs = self._gauge("live_runs", "Runs under way.")
        self.open_calls = self._gauge("open_calls", "Calls of /invoke and /batch under way.")
        self.retained_runs = self._gauge("retained_runs", "Ended runs that the store keeps, from all workers.")
        self.retained_bytes = self._gauge("retained_bytes", "Bytes of the ended runs that the store keeps.")
        self.store_down = self._gauge("store_down", "1 while this worker cannot reach its store.")
        self.draining = self._gauge("draining", "1 while this worker takes no new runs.")
        self.fast_paths = Gauge(
            "streamserve_fast_path_on",
            "1 while a fast path does the same as the installed dependency, else 0.",
            ("path",),
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self._meters: dict[tuple[str, str], Meter] = {}
        # Every request needs these four children; prometheus_client looks a child up under a lock.
        self.first_token_of, self.duration_of = cache(self.first_token.labels), cache(self.duration.labels)
        self.runs_of, self.answers_of = cache(self.runs.labels), cache(self.answers.labels)
        if SHARED not in os.environ:  # with several workers it would be unclear which one they describe
            for kind in (ProcessCollector, PlatformCollector, GCCollector):
                kind(registry=self.registry)

    def _counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(f"streamserve_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"streamserve_{name}", text, registry=self.registry, multiprocess_mode="livesum")

    def _histogram(self, name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
        return Histogram(f"streamserve_{name}", text, labels, buckets=buckets, registry=self.registry)

    def meter(self, chain: str, endpoint: str) -> Meter:
        """Return the meter for the blocks of all runs of a chain's endpoint."""
        key = (chain, endpoint)
        if key not in self._meters:
            self._meters[key] = Meter(self.gaps.labels(*key), self.blocks.labels(*key))
        return self._meters[key]

    def flush(self) -> None:
        """Add the blocks measured since the last flush to the metrics."""
        for meter in self._meters.values():
            meter.flush()

    def watch(self, chain: str, endpoint: str, began: float) -> Callable[[], None]:
        """Return the function that a run calls once per block. Its request arrived at `began`, by `time.monotonic`."""
        meter, first_token = self.meter(chain, endpoint), self.first_token_of(chain, endpoint)
        last = -1.0

        # A third of a microsecond. `Histogram.observe` takes locks, which would double the cost of a token.
        def block() -> None:
            nonlocal last
            now = monotonic()
            if last < 0:
                first_token.observe(now - began)
                meter.first += 1
            else:
                gap = now - last
                meter.counts[bisect_left(GAPS, gap)] += 1
                meter.total += gap
            last = now

        return block
