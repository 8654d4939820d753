"""Telemetry: told of every run, it counts, measures and traces, as the settings say."""

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
from streamserve.runs.observer import Observer, Watch
from streamserve.runs.runs import Runs
from streamserve.settings import Settings
from streamserve.stores import Outcome, RunRecord
from streamserve.telemetry import langsmith
from streamserve.telemetry.ending import at_most
from streamserve.telemetry.exposition import own_port
from streamserve.telemetry.metrics import Metrics
from streamserve.telemetry.pulse import Pulse
from streamserve.telemetry.requests import log_run

if TYPE_CHECKING:
    from streamserve.telemetry.tracing import Tracing

# Seconds at the end of the server for traces that were not sent yet.
LAST_WORDS = 4.0
# Beside the states of the store: a run that this worker could not write on, a call that did not get to its chain.
GIVEN_UP = "given_up"
REFUSED = "refused"


class Telemetry(Observer):
    """The telemetry of one application.

    Args:
        settings: `metrics`, `metrics_port` and `otel`.

    Raises:
        RuntimeError: `otel` is on, and its extra is not installed.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = None if settings.metrics == "off" else Metrics()
        self.tracing = _tracing() if settings.otel else None
        self._langsmith = langsmith.bounded_client()
        self.stored = self.metrics.writes.observe if self.metrics else None

    def begin(self, record: RunRecord, call: Call) -> Watch:
        """See Observer."""
        log_run(record.run_id, record.chain)
        trace = self.tracing.begin(record.run_id, record.chain, record.endpoint) if self.tracing else None
        metrics = self.metrics
        if metrics is not None and record.attempt > 1:
            metrics.recoveries.labels(record.chain).inc()

        def ended(outcome: Outcome | None) -> None:
            state = outcome.status if outcome else GIVEN_UP
            if metrics is not None:
                count(metrics, record.chain, record.endpoint, state, call.began)
            if trace is not None:
                trace.end(state, (outcome.error or {}).get("code") if outcome else state)

        return Watch(metrics.watch(record.chain, record.endpoint, call.began) if metrics else None, ended)

    @contextmanager
    def calling(self, call: Call, endpoint: str) -> Iterator[None]:
        """See Observer."""
        log_run(call.run_id, call.chain)
        trace = self.tracing.begin(call.run_id, call.chain, endpoint) if self.tracing else None
        state: str = "done"
        code: str | None = None
        try:
            yield
        except BaseException as error:
            state, code = _end_of(error, call)
            raise
        finally:
            if self.metrics is not None:
                count(self.metrics, call.chain, endpoint, state, call.began)
            if trace is not None:
                trace.end(state, code)

    def resumed(self, chain: str) -> None:
        """See Observer."""
        if self.metrics is not None:
            self.metrics.resumes.labels(chain).inc()

    def cancelling(self, chain: str) -> None:
        """See Observer."""
        if self.metrics is not None:
            self.metrics.cancels.labels(chain).inc()

    def answered(self, status: int) -> None:
        """An answer has begun."""
        if self.metrics is not None:
            self.metrics.answers.labels(str(status)).inc()

    def of_requests(self) -> dict[str, Any]:
        """What RequestContext tells, by its arguments' names."""
        return {
            "answered": self.answered if self.metrics else None,
            "traced": self.tracing.request if self.tracing else None,
        }

    @asynccontextmanager
    async def measuring(self, runs: Runs) -> AsyncIterator[None]:
        """Looks at the runs and the event loop as long as the block lasts, then sends the last spans.

        Args:
            runs: of the application.
        """
        try:
            with ExitStack() as stack:
                if self.metrics is not None:
                    stack.enter_context(Pulse(self.metrics, runs))
                    stack.enter_context(own_port(self.metrics, self.settings))
                yield
        finally:
            await self._send_the_rest()

    async def _send_the_rest(self) -> None:
        work: list[Callable[[], None]] = []
        if self.tracing is not None:
            work.append(self.tracing.close)
        if self._langsmith is not None:
            work.append(partial(langsmith.close, self._langsmith))
        await at_most(LAST_WORDS, work)


def _end_of(error: BaseException, call: Call) -> tuple[str, str]:
    shown = classify(error)
    if call.phase == "input":
        return REFUSED, shown.code
    return "cancelled" if isinstance(shown, Cancelled | CancelledError) else "error", shown.code


def count(metrics: Metrics, chain: str, endpoint: str, state: str, began: float) -> None:
    """Counts what has ended."""
    metrics.runs.labels(chain, endpoint, state).inc()
    metrics.duration.labels(chain, endpoint).observe(monotonic() - began)


def _tracing() -> Tracing:
    try:
        from streamserve.telemetry.tracing import Tracing
    except ImportError as error:
        raise RuntimeError("STREAMSERVE_OTEL needs an extra: pip install 'streamserve[otel]'") from error
    os.environ.setdefault("OTEL_SERVICE_NAME", "streamserve")
    return Tracing()
