"""The messages of a remote graph's models, for the handlers of a local graph that streams messages or events."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

from langchain_core.callbacks.manager import BaseRunManager, ahandle_event, handle_event
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult

from streamserve_sdk.codec.merge import merge

_NAMESPACE = "langgraph_checkpoint_ns"


class Tokens:
    """The chunks of a stream with the mode `messages`, reported as runs of chat models below the node's run.

    The reports wait until `send` or `asend`.

    Args:
        run: the run of the node's call; those of its handlers that stream get the reports.
    """

    def __init__(self, run: BaseRunManager) -> None:
        self._run = run
        self._handlers = [handler for handler in run.handlers if hasattr(handler, "tap_output_iter")]
        # Only langgraph's handler of messages says whether it takes those of subgraphs; events have them.
        self._nests = any(getattr(handler, "subgraphs", False) for handler in self._handlers)
        self._reports: list[tuple[str, str, tuple[Any, ...], dict[str, Any]]] = []
        self._open: dict[str | None, tuple[UUID, list[AIMessageChunk]]] = {}

    @property
    def are_read(self) -> bool:
        """True if a handler gets the reports."""
        return bool(self._handlers)

    @property
    def subgraphs(self) -> bool:
        """True if a handler streams the messages of subgraphs."""
        return any(getattr(handler, "subgraphs", True) for handler in self._handlers)

    def send(self) -> None:
        """Give the handlers the reports."""
        for name, ignored_by, values, fields in self._taken():
            handle_event(self._handlers, name, ignored_by, *values, **fields)

    async def asend(self) -> None:
        """Give the handlers the reports."""
        for name, ignored_by, values, fields in self._taken():
            await ahandle_event(self._handlers, name, ignored_by, *values, **fields)

    def _taken(self) -> list[tuple[str, str, tuple[Any, ...], dict[str, Any]]]:
        taken, self._reports = self._reports, []
        return taken

    def take(self, chunk: Any) -> None:
        """Report a chunk: a message with its metadata, in a stream of subgraphs behind a namespace."""
        namespace, (message, metadata) = chunk if self.subgraphs else ((), chunk)
        if isinstance(message, AIMessageChunk):
            if message.id not in self._open:
                self._open[message.id] = self._start(namespace, metadata), []
            run_id, chunks = self._open[message.id]
            chunks.append(message)
            generation = ChatGenerationChunk(message=message)
            self._report("on_llm_new_token", "ignore_llm", str(message.text), chunk=generation, run_id=run_id)
        elif isinstance(message, AIMessage):
            self._end(self._start(namespace, metadata), message)

    def split(self, chunk: Any) -> Any:
        """Return the state of a chunk of both modes, or None; report its message.

        Args:
            chunk: a mode with its value, in a stream of subgraphs behind a namespace.
        """
        *rest, mode, value = chunk
        if mode == "messages":
            self.take((*rest, value) if rest else value)
            return None
        return None if any(rest) else value

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

    def _start(self, namespace: Sequence[str], metadata: Mapping[str, Any]) -> UUID:
        run_id, metadata = uuid4(), self._metadata(namespace, metadata)
        fields = {"run_id": run_id, "metadata": metadata, "tags": list(self._run.inheritable_tags)}
        self._report("on_chat_model_start", "ignore_chat_model", {}, [[]], **fields)
        return run_id

    def _end(self, run_id: UUID, message: AIMessage) -> None:
        result = LLMResult(generations=[[ChatGeneration(message=message)]])
        self._report("on_llm_end", "ignore_llm", result, run_id=run_id)

    # As in process, a model in a subgraph has the namespace of the node; else it is one that the node calls.
    def _metadata(self, namespace: Sequence[str], remote: Mapping[str, Any]) -> dict[str, Any]:
        local = self._run.metadata
        if not self._nests and not namespace:
            return {**remote, **local}
        return {**local, **remote, _NAMESPACE: f"{local.get(_NAMESPACE, '')}|{remote.get(_NAMESPACE, '')}"}

    def _report(self, name: str, ignored_by: str, *values: Any, **fields: Any) -> None:
        self._reports.append((name, ignored_by, values, {"parent_run_id": self._run.run_id, **fields}))
