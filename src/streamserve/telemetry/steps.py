"""LangChain's steps as spans: a callback handler that records their times, but neither input nor output."""

from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import LLMResult
from opentelemetry.trace import Span, StatusCode, Tracer, set_span_in_context

# LangChain's metadata of a model, and OpenTelemetry's names for it.
# https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
_MODEL = {"ls_model_name": "gen_ai.request.model", "ls_provider": "gen_ai.provider.name"}
_USAGE = {"input_tokens": "gen_ai.usage.input_tokens", "output_tokens": "gen_ai.usage.output_tokens"}


class Steps(BaseCallbackHandler):
    """Makes the spans of one run's steps below the run's own."""

    # Call the handler in the event loop: a thread per event would cost ten times as much.
    run_inline = True

    def __init__(self, tracer: Tracer, root: Span) -> None:
        self._tracer = tracer
        self._root = root
        self._open: dict[UUID, Span] = {}

    def end_all(self) -> None:
        """End the spans that a cancelled run has left open."""
        for run_id in list(self._open):
            self._end(run_id)

    def _begin(self, kind: str, serialized: Any, given: dict[str, Any]) -> Span:
        parent = self._open.get(given.get("parent_run_id") or given["run_id"], self._root)
        name = given.get("name") or (serialized or {}).get("name") or kind
        span = self._tracer.start_span(
            name,
            set_span_in_context(parent),
            attributes={"langchain.kind": kind, "langchain.run_id": str(given["run_id"])},
        )
        self._open[given["run_id"]] = span
        return span

    def _end(self, run_id: UUID, error: BaseException | None = None) -> None:
        span = self._open.pop(run_id, None)
        if span is None:
            return
        if error is not None:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(StatusCode.ERROR)
        span.end()

    def on_chain_start(self, serialized: Any, inputs: Any, **given: Any) -> None:  # noqa: ARG002 - LangChain's names
        self._begin("chain", serialized, given)

    def on_tool_start(self, serialized: Any, input_str: str, **given: Any) -> None:  # noqa: ARG002
        self._begin("tool", serialized, given)

    def on_retriever_start(self, serialized: Any, query: str, **given: Any) -> None:  # noqa: ARG002
        self._begin("retriever", serialized, given)

    def on_llm_start(self, serialized: Any, prompts: Any, **given: Any) -> None:  # noqa: ARG002
        self._begin_model(serialized, given)

    def on_chat_model_start(self, serialized: Any, messages: Any, **given: Any) -> None:  # noqa: ARG002
        self._begin_model(serialized, given)

    def _begin_model(self, serialized: Any, given: dict[str, Any]) -> None:
        span = self._begin("model", serialized, given)
        for name, value in (given.get("metadata") or {}).items():
            if name in _MODEL:
                span.set_attribute(_MODEL[name], str(value))

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_given: Any) -> None:
        span = self._open.get(run_id)
        generation = response.generations[0][0] if response.generations and response.generations[0] else None
        usage = getattr(getattr(generation, "message", None), "usage_metadata", None) or {}
        for name, attribute in _USAGE.items():
            if span is not None and name in usage:
                span.set_attribute(attribute, usage[name])
        self._end(run_id)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **_given: Any) -> None:  # noqa: ARG002
        self._end(run_id)

    def on_tool_end(self, output: Any, *, run_id: UUID, **_given: Any) -> None:  # noqa: ARG002
        self._end(run_id)

    def on_retriever_end(self, documents: Any, *, run_id: UUID, **_given: Any) -> None:  # noqa: ARG002
        self._end(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_given: Any) -> None:
        self._end(run_id, error)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_given: Any) -> None:
        self._end(run_id, error)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **_given: Any) -> None:
        self._end(run_id, error)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **_given: Any) -> None:
        self._end(run_id, error)
