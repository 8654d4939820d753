"""Telemetry observes all runs: it counts, measures and traces them, as the settings demand."""

from __future__ import annotations

import os
from asyncio import CancelledError
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from streamserve.call import Call
from streamserve.errors import Cancelled
from streamserve.errors.failures import classify
from streamserve.runs.observer import Observer, RunHooks
from streamserve.runs.runs import Runs
from streamserve.settings import Settings
from streamserve.stores import Outcome, RunRecord
from streamserve.telemetry import langsmith
from streamserve.telemetry.exposition import serve_on_own_port
from streamserve.telemetry.loop_monitor import LoopMonitor
from streamserve.telemetry.metrics import Metrics
from streamserve.telemetry.requests import log_run
from streamserve.telemetry.shutdown import run_within

if TYPE_CHECKING:
    from streamserve.telemetry.tracing import Tracing

# Seconds at the end of the server to send the remaining traces.
SHUTDOWN_LIMIT = 4.0
# States besides those of the store: a run that this worker could not write on, a call that failed
# before it reached its chain.
GIVEN_UP = "given_up"
REFUSED = "refused"


class Telemetry(Observer):
    """The telemetry of one application.

    Args:
        settings: `metrics`, `metrics_port` and `otel`.

    Raises:
        RuntimeError: `otel` is on, but its extra is not installed.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = None if settings.metrics == "off" else Metrics()
        self.tracing = _make_tracing() if settings.otel else None
        self._langsmith = langsmith.bounded_client()
        self.stored = self.metrics.writes.observe if self.metrics else None

    def begin(self, record: RunRecord, call: Call) -> RunHooks:
        log_run(record.run_id, record.chain)
        trace = self.tracing.begin(call, record.endpoint) if self.tracing else None
        metrics = self.metrics
        if metrics is not None and record.attempt > 1:
            metrics.recoveries.labels(record.chain).inc()

        def ended(outcome: Outcome | None) -> None:
            state = outcome.status if outcome else GIVEN_UP
            if metrics is not None:
                count(metrics, record.chain, record.endpoint, state, call.started_at)
            if trace is not None:
                trace.end(state, (outcome.error or {}).get("code") if outcome else state)

        return RunHooks(metrics.watch(record.chain, record.endpoint, call.started_at) if metrics else None, ended)

    @contextmanager
    def calling(self, call: Call, endpoint: str) -> Iterator[None]:
        log_run(call.run_id, call.chain)
        trace = self.tracing.begin(call, endpoint) if self.tracing else None
        state: str = "done"
        code: str | None = None
        try:
            yield
        except BaseException as error:
            state, code = _classify_end(error, call)
            raise
        finally:
            if self.metrics is not None:
                count(self.metrics, call.chain, endpoint, state, call.started_at)
            if trace is not None:
                trace.end(state, code)

    def resumed(self, chain: str) -> None:
        if self.metrics is not None:
            self.metrics.resumes.labels(chain).inc()

    def cancelling(self, chain: str) -> None:
        if self.metrics is not None:
            self.metrics.cancels.labels(chain).inc()

    def answered(self, status: int) -> None:
        """Count an answer by its status."""
        if self.metrics is not None:
            self.metrics.answers_of(str(status)).inc()

    def request_hooks(self) -> dict[str, Any]:
        """Return the hooks of RequestContext, by the names of its arguments."""
        return {
            "answered": self.answered if self.metrics else None,
            "traced": self.tracing.request if self.tracing else None,
        }

    @asynccontextmanager
    async def measuring(self, runs: Runs) -> AsyncIterator[None]:
        """Measure the runs and the event loop while the `with` block runs, then send the last spans."""
        try:
            with ExitStack() as stack:
                if self.metrics is not None:
                    stack.enter_context(LoopMonitor(self.metrics, runs))
                    stack.enter_context(serve_on_own_port(self.metrics, self.settings))
                yield
        finally:
            await self._send_last_traces()

    async def _send_last_traces(self) -> None:
        work: list[Callable[[], None]] = []
        if self.tracing is not None:
            work.append(self.tracing.close)
        if self._langsmith is not None:
            work.append(partial(self._langsmith.close, timeout=langsmith.FLUSH_LIMIT))
        await run_within(SHUTDOWN_LIMIT, work)


def _classify_end(error: BaseException, call: Call) -> tuple[str, str]:
    shown = classify(error)
    if call.phase == "input":
        return REFUSED, shown.code
    return "cancelled" if isinstance(shown, Cancelled | CancelledError) else "error", shown.code


def count(metrics: Metrics, chain: str, endpoint: str, state: str, began: float) -> None:
    """Count a run or a call that has ended."""
    metrics.runs_of(chain, endpoint, state).inc()
    metrics.duration_of(chain, endpoint).observe(monotonic() - began)


def _make_tracing() -> Tracing:
    try:
        from streamserve.telemetry.tracing import Tracing
    except ImportError as error:
        raise RuntimeError("STREAMSERVE_OTEL needs an extra: pip install 'streamserve[otel]'") from error
    os.environ.setdefault("OTEL_SERVICE_NAME", "streamserve")
    return Tracing()
