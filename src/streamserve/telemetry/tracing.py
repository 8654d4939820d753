"""OpenTelemetry traces: a run is a span, and LangChain's steps are spans below it.

Needs the extra `otel`. OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT, ...) configure the exporter. Spans
hold neither input nor output of a chain nor the text of an exception, because these may contain secrets.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from langchain_core.tracers.context import register_configure_hook
from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.datastructures import Headers
from structlog.contextvars import bind_contextvars

from streamserve.call import Call
from streamserve.telemetry.steps import Steps

# Seconds for the last spans: an unreachable collector must not delay the end of the server.
FLUSH_LIMIT = 3.0

_steps: ContextVar[Steps | None] = ContextVar("streamserve_steps", default=None)
# LangChain takes the handler from each context, so chains and their configs need no change.
register_configure_hook(_steps, inheritable=True)


class RunTrace:
    """The span of a live run and the spans of its steps."""

    def __init__(self, span: Span, steps: Steps) -> None:
        self._span = span
        self._steps = steps

    def end(self, state: str, code: str | None) -> None:
        """End the span and all below it, with the run's final state and the code of its error."""
        self._steps.end_all()
        self._span.set_attribute("streamserve.state", state)
        if code is not None:
            self._span.set_attribute("error.type", code)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class Tracing:
    """The tracer of one application.

    Args:
        provider: provider of tracers; default: the one that the process has set, else one that exports by OTLP over
            HTTP.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        found = provider or trace.get_tracer_provider()
        self._own: TracerProvider | None = None
        if not isinstance(found, TracerProvider):
            found = self._own = TracerProvider(resource=Resource.create(), shutdown_on_exit=False)
            found.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = found.get_tracer("streamserve")

    @contextmanager
    def request(self, headers: Headers) -> Iterator[None]:
        """Continue the trace that a request's headers name while the `with` block runs."""
        token = otel_context.attach(propagate.extract(dict(headers)))
        try:
            yield
        finally:
            otel_context.detach(token)

    def begin(self, call: Call, endpoint: str) -> RunTrace:
        """Start the span of a run, in the context that the run's task will copy."""
        attributes = {
            "streamserve.run_id": call.run_id,
            "streamserve.chain": call.chain,
            "streamserve.endpoint": endpoint,
            "enduser.id": call.principal or "",
        }
        span = self._tracer.start_span(f"{endpoint} {call.chain}", kind=SpanKind.SERVER, attributes=attributes)
        bind_contextvars(trace_id=trace.format_trace_id(span.get_span_context().trace_id))
        # Never detached, because the context belongs to the request and ends with it.
        otel_context.attach(trace.set_span_in_context(span))
        steps = Steps(self._tracer, span)
        _steps.set(steps)
        return RunTrace(span, steps)

    def close(self) -> None:
        """Send the last spans, for at most FLUSH_LIMIT seconds."""
        if self._own is not None:
            self._own.force_flush(int(FLUSH_LIMIT * 1000))
            self._own.shutdown()
