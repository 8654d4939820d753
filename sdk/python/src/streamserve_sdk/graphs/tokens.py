"""The messages of a remote graph's models, for the handlers of a local graph that streams messages."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

from langchain_core.callbacks.base import AsyncCallbackHandler
from langchain_core.callbacks.manager import BaseRunManager, handle_event
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult

from streamserve_sdk.codec.merge import merge

_NAMESPACE = "langgraph_checkpoint_ns"


class Tokens:
    """The chunks of a stream with the mode `messages`, reported as runs of chat models below the node's run.

    Args:
        run: the run of the node's call; those of its handlers that stream messages get the reports.
    """

    def __init__(self, run: BaseRunManager) -> None:
        self._run = run
        # langgraph's handler of messages is synchronous, also in an asynchronous run.
        self._handlers = [
            handler
            for handler in run.handlers
            if hasattr(handler, "tap_output_iter") and not isinstance(handler, AsyncCallbackHandler)
        ]
        self._open: dict[str | None, tuple[UUID, list[AIMessageChunk]]] = {}

    @property
    def are_read(self) -> bool:
        """True if a handler gets the reports."""
        return bool(self._handlers)

    @property
    def subgraphs(self) -> bool:
        """True if a handler streams the messages of subgraphs."""
        return any(getattr(handler, "subgraphs", False) for handler in self._handlers)

    def take(self, chunk: Any) -> None:
        """Report a chunk: a message with its metadata, in a stream of subgraphs behind a namespace."""
        message, metadata = chunk[-1] if self.subgraphs else chunk
        if isinstance(message, AIMessageChunk):
            if message.id not in self._open:
                self._open[message.id] = self._start(metadata), []
            run_id, chunks = self._open[message.id]
            chunks.append(message)
            generation = ChatGenerationChunk(message=message)
            self._report("on_llm_new_token", "ignore_llm", str(message.text), chunk=generation, run_id=run_id)
        elif isinstance(message, AIMessage):
            self._end(self._start(metadata), message)

    def close(self) -> None:
        """Report the ends of the messages."""
        for run_id, chunks in self._open.values():
            self._end(run_id, merge(chunks))
        self._open.clear()

    def fail(self, error: BaseException) -> None:
        """Report an error for the messages that have not ended."""
        for run_id, _ in self._open.values():
            self._report("on_llm_error", "ignore_llm", error, run_id=run_id)
        self._open.clear()

    def _start(self, metadata: Mapping[str, Any]) -> UUID:
        run_id = uuid4()
        fields = {"run_id": run_id, "metadata": self._metadata(metadata), "tags": list(self._run.inheritable_tags)}
        self._report("on_chat_model_start", "ignore_chat_model", {}, [[]], **fields)
        return run_id

    def _end(self, run_id: UUID, message: AIMessage) -> None:
        result = LLMResult(generations=[[ChatGeneration(message=message)]])
        self._report("on_llm_end", "ignore_llm", result, run_id=run_id)

    # As in process, a model in a subgraph has the namespace of the node; else it is one that the node calls.
    def _metadata(self, remote: Mapping[str, Any]) -> dict[str, Any]:
        local = self._run.metadata
        if not self.subgraphs:
            return {**remote, **local}
        return {**local, **remote, _NAMESPACE: f"{local.get(_NAMESPACE, '')}|{remote.get(_NAMESPACE, '')}"}

    def _report(self, name: str, ignored_by: str, *values: Any, **fields: Any) -> None:
        handle_event(self._handlers, name, ignored_by, *values, parent_run_id=self._run.run_id, **fields)
