"""ChatOpenAI with a stream of chat completions that makes no object for each part of a chunk."""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Generic, TypeVar

from langchain_core.outputs import ChatGenerationChunk
from langchain_openai import ChatOpenAI
from openai.resources.chat import AsyncCompletions, Completions
from pydantic import Field

from streamserve.models.openai.stream import AsyncChunkStream, ChunkStream
from streamserve.private_names.langchain_openai import is_plain_completion

S = TypeVar("S")


class ChunkChatOpenAI(ChatOpenAI):
    """ChatOpenAI with a cheaper stream of the same message chunks and errors.

    ChatOpenAI handles structured output (`response_format`), the Responses API and clients other than the `openai`
    package's own.

    Args:
        fast_stream: whether to use the cheaper stream; if false, ChatOpenAI handles every stream (default true).
    """

    fast_stream: bool = Field(True, exclude=True)

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        model = self
        if self._can_be_fast(self.client, Completions, kwargs):
            model = self.model_copy(update={"client": _ChunkCompletions(self.client)})
        yield from super(ChunkChatOpenAI, model)._stream(*args, **kwargs)

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        model = self
        if self._can_be_fast(self.async_client, AsyncCompletions, kwargs):
            completions = _AsyncChunkCompletions(self.async_client, self.stream_chunk_timeout, self.model_name)
            # The stream has its own time limit, because LangChain's makes a task for every chunk.
            model = self.model_copy(update={"async_client": completions, "stream_chunk_timeout": None})
        async for chunk in super(ChunkChatOpenAI, model)._astream(*args, **kwargs):
            yield chunk

    def _can_be_fast(self, completions: Any, kind: type[Any], kwargs: dict[str, Any]) -> bool:
        return self.fast_stream and type(completions) is kind and is_plain_completion(self, kwargs)


@dataclass(frozen=True)
class _Response(Generic[S]):
    """The part of a raw response that LangChain uses."""

    raw: Any
    parse: Callable[[], S]

    @property
    def headers(self) -> Any:
        return self.raw.headers


class _ChunkCompletions:
    """The part of `chat.completions` with which LangChain streams."""

    def __init__(self, completions: Completions) -> None:
        self._raw = completions.with_raw_response
        self.with_raw_response = SimpleNamespace(create=self._respond)

    def create(self, **payload: Any) -> ChunkStream:
        return self._respond(**payload).parse()

    def _respond(self, **payload: Any) -> _Response[ChunkStream]:
        raw = self._raw.create(**payload)
        return _Response(raw, lambda: raw.parse(to=ChunkStream))


class _AsyncChunkCompletions:
    """The asynchronous _ChunkCompletions, with a time limit for each chunk."""

    def __init__(self, completions: AsyncCompletions, timeout: float | None, model_name: str) -> None:
        self._raw = completions.with_raw_response
        self._timeout = timeout
        self._model_name = model_name
        self.with_raw_response = SimpleNamespace(create=self._respond)

    async def create(self, **payload: Any) -> AsyncChunkStream:
        return (await self._respond(**payload)).parse()

    async def _respond(self, **payload: Any) -> _Response[AsyncChunkStream]:
        raw = await self._raw.create(**payload)
        return _Response(raw, lambda: raw.parse(to=AsyncChunkStream).limit(self._timeout, self._model_name))
