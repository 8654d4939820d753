"""The protocol events of the chat models in a chain, gathered by a callback handler.

LangChain's own bridge makes them of the models' chunks, as it does for a model that is asked for its events. A model
that a step calls for its whole answer streams as well, as the handler has LangChain's mark.
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
    """Emit the events of each chat model's message, with the metadata of its run.

    LangChain streams a model's answer for a handler with the methods `tap_output_aiter` and `tap_output_iter`.

    Args:
        emit: called with each event, in the thread in which the model runs.

    Raises:
        NotImplementedError: the installed langchain-core has no bridge from chunks to events.
    """

    run_inline = True

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._bridge = event_bridge()
        self._messages: dict[UUID, _Message] = {}

    def tap_output_aiter(self, _run_id: UUID, output: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """What a step yields is not looked at."""
        return output

    def tap_output_iter(self, _run_id: UUID, output: Iterator[Any]) -> Iterator[Any]:
        """What a step yields is not looked at."""
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
        """A message begins."""
        about = {**(metadata or {}), **({"tags": tags} if tags else {}), "run_id": str(run_id)}
        self._messages[run_id] = _Message(self._bridge, run_id, lambda event: self._emit(event, about))

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, run_id: UUID, **_kwargs: Any) -> None:  # noqa: ARG002
        """A chunk of a message."""
        if isinstance(chunk, ChatGenerationChunk) and (message := self._messages.get(run_id)):
            message.take(chunk)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_kwargs: Any) -> None:
        """The message is whole."""
        if message := self._messages.pop(run_id, None):
            message.end(response)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_kwargs: Any) -> None:
        """The message stays a part: the chain may have another model to fall back to."""
        message = self._messages.pop(run_id, None)
        if message is not None and message.begun:
            message.tell({"event": "error", "message": classify(error).text})


class _Message:
    """One message, from its first chunk to its last."""

    def __init__(self, bridge: EventBridge, run_id: UUID, tell: Callable[[Mapping[str, Any]], None]) -> None:
        self._bridge = bridge
        self._id = f"lc_run--{run_id}"
        self._tell = tell
        self._chunks: _Chunks | None = None
        self.begun = False

    def tell(self, event: Mapping[str, Any]) -> None:
        self.begun = True
        self._tell(event)

    def take(self, chunk: ChatGenerationChunk) -> None:
        if self._chunks is None:
            self._chunks = _Chunks(self._bridge, self._id)
        self._chunks.add(chunk)
        self._tell_ready(self._chunks)

    def end(self, response: LLMResult) -> None:
        if self._chunks is not None:
            self._chunks.close()
            self._tell_ready(self._chunks)
        elif not self.begun:
            self._replay(response)

    def _replay(self, response: LLMResult) -> None:
        # A model that cannot stream, or an answer from a cache.
        generations = response.generations[0] if response.generations else []
        if generations and isinstance(generations[0], ChatGeneration):
            for event in self._bridge.of_message(generations[0].message, message_id=self._id):
                self.tell(event)

    def _tell_ready(self, chunks: _Chunks) -> None:
        for event in chunks.ready():
            self.tell(event)


class _Chunks:
    """Drives LangChain's bridge, which pulls its chunks, by chunks that are pushed.

    The bridge waits for the next chunk by an awaitable that suspends to whoever drives it: no event loop is needed,
    as a model may run in any thread.
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
        """The events of the chunks so far."""
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
