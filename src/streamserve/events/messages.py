"""Protocol events of a chain's chat models, collected by a callback handler.

LangChain's own bridge makes the events from the models' chunks. A model that a step calls for its whole answer streams
as well, because the handler has the methods of LangChain's streaming handlers.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from typing import Any, cast
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult

from streamserve.errors.failures import classify
from streamserve.private_names.langchain_core import EventBridge, event_bridge

Metadata = dict[str, Any]
Emit = Callable[[Mapping[str, Any], Metadata], None]


class MessageEvents(BaseCallbackHandler):
    """A handler that emits the events of each chat model's message with the metadata of its run.

    LangChain streams a model's answer for a handler with the methods `tap_output_aiter` and `tap_output_iter`.

    Args:
        emit: receiver of each event, called in the OS thread of the model.

    Raises:
        NotImplementedError: the installed langchain-core has no bridge from chunks to events.
    """

    run_inline = True

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._bridge = event_bridge()
        self._messages: dict[UUID, _Message] = {}

    def tap_output_aiter(self, _run_id: UUID, output: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Return the output unchanged."""
        return output

    def tap_output_iter(self, _run_id: UUID, output: Iterator[Any]) -> Iterator[Any]:
        """Return the output unchanged."""
        return output

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002 - LangChain's names, which it may call them by
        messages: list[list[Any]],  # noqa: ARG002
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **_kwargs: Any,
    ) -> None:
        about = {**(metadata or {}), **({"tags": tags} if tags else {}), "run_id": str(run_id)}
        self._messages[run_id] = _Message(self._bridge, run_id, lambda event: self._emit(event, about))

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, run_id: UUID, **_kwargs: Any) -> None:  # noqa: ARG002
        if isinstance(chunk, ChatGenerationChunk) and (message := self._messages.get(run_id)):
            message.add(chunk)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_kwargs: Any) -> None:
        if message := self._messages.pop(run_id, None):
            message.end(response)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_kwargs: Any) -> None:
        """End an incomplete message with an error; the chain may fall back to another model."""
        message = self._messages.pop(run_id, None)
        if message is not None and message.has_begun:
            message.emit({"event": "error", "message": classify(error).text})


class _Message:
    """One message, from its first chunk to its last."""

    def __init__(self, bridge: EventBridge, run_id: UUID, emit: Callable[[Mapping[str, Any]], None]) -> None:
        self._bridge = bridge
        self._id = f"lc_run--{run_id}"
        self._emit = emit
        self._chunks: _Chunks | None = None
        self.has_begun = False

    def emit(self, event: Mapping[str, Any]) -> None:
        self.has_begun = True
        self._emit(event)

    def add(self, chunk: ChatGenerationChunk) -> None:
        if self._chunks is None:
            self._chunks = _Chunks(self._bridge, self._id)
        self._chunks.add(chunk)
        self._emit_ready(self._chunks)

    def end(self, response: LLMResult) -> None:
        if self._chunks is not None:
            self._chunks.close()
            self._emit_ready(self._chunks)
        elif not self.has_begun:
            self._replay(response)

    def _replay(self, response: LLMResult) -> None:
        # A model that cannot stream, or an answer from a cache.
        generations = response.generations[0] if response.generations else []
        if generations and isinstance(generations[0], ChatGeneration):
            for event in self._bridge.of_message(generations[0].message, message_id=self._id):
                self.emit(event)

    def _emit_ready(self, chunks: _Chunks) -> None:
        for event in chunks.ready():
            self.emit(event)


class _Chunks:
    """An adapter that pushes chunks into LangChain's bridge, which pulls them.

    The bridge awaits the next chunk without an event loop, because a model may run in any OS thread: the awaitable
    suspends to the caller of `ready`.
    """

    def __init__(self, bridge: EventBridge, message_id: str) -> None:
        self._pending: deque[ChatGenerationChunk] = deque()
        self._closed = False
        self._events = bridge.of_chunks(self, message_id=message_id)
        self._step: Generator[Any, None, Any] | None = None

    def add(self, chunk: ChatGenerationChunk) -> None:
        self._pending.append(chunk)

    def close(self) -> None:
        self._closed = True

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> ChatGenerationChunk:
        while not self._pending:
            if self._closed:
                raise StopAsyncIteration
            await _suspended()
        return self._pending.popleft()

    def ready(self) -> Iterator[Mapping[str, Any]]:
        """Yield the events of the chunks so far."""
        while True:
            step = self._step or cast(Any, anext(self._events)).__await__()
            self._step = None
            try:
                step.send(None)
            except StopIteration as made:
                yield made.value
            except StopAsyncIteration:
                return
            else:
                self._step = step
                return


@types.coroutine
def _suspended() -> Generator[None, None, None]:
    yield
