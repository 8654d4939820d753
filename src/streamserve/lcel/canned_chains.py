"""Small chains that take every way through the pieces of a stream that are rewritten, with a model that is a script."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser, StrOutputParser
from langchain_core.output_parsers.openai_tools import (
    JsonOutputKeyToolsParser,
    JsonOutputToolsParser,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, Runnable, RunnablePassthrough
from langchain_core.runnables.config import var_child_runnable_config
from pydantic import BaseModel, PrivateAttr


def _parts(*texts: str) -> list[ToolCallChunk]:
    return [tool_call_chunk(name=None, args=text, id=None, index=0) for text in texts]


_CALL = tool_call_chunk(name="search", args='{"q": "cats"}', id="call-1", index=0)
_FIRST = JsonOutputKeyToolsParser(key_name="Search", first_tool_only=True)
_USAGE = UsageMetadata(input_tokens=3, output_tokens=2, total_tokens=5)
# Cut within a text, an escape, a number, a name and a pair of halves.
_JSON = ("```json\n", '{"q": "caf\\u00', "e9 `", '", "n": [1', '.5, "\\ud83d', '\\ude00", nul', "l]}", "\n```")
_CALLS = (
    tool_call_chunk(name="Search", args=None, id="call-1", index=0),
    *_parts('{"q', '": "ca', 'ts", "n', '": [1, 2', "]}"),
)
_PROMPT = ChatPromptTemplate.from_messages([("system", "Answer."), ("user", "{topic}")])


class Script(BaseChatModel):
    """A model that streams fixed chunks, and keeps what it was asked and how it ended.

    Args:
        fails: whether it raises RuntimeError after its chunks (default false).
        waits: whether it waits for ever after its chunks (default false).
    """

    fails: bool = False
    waits: bool = False

    _seen: list[Any] = PrivateAttr(default_factory=list)
    _waiting: asyncio.Event = PrivateAttr(default_factory=asyncio.Event)

    async def until_it_waits(self) -> None:
        """Return as soon as it waits."""
        await self._waiting.wait()
        self._waiting.clear()

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Return true: the text of another kind of object, which callbacks are given, takes several milliseconds."""
        return True

    @property
    def _llm_type(self) -> str:
        return "script"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError

    async def _astream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        config = var_child_runnable_config.get() or {}
        tags, metadata = config.get("tags"), config.get("metadata")
        self._seen.append((messages, stop, kwargs, tags, metadata, bool(run_manager and run_manager.handlers)))
        try:
            yield ChatGenerationChunk(message=AIMessageChunk(content="Cats"))
            await asyncio.sleep(0)
            yield ChatGenerationChunk(message=AIMessageChunk(content=" purr", id="own"), generation_info={"step": 2})
            yield ChatGenerationChunk(message=AIMessageChunk(content=[{"type": "text", "text": "."}], id="own"))
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[_CALL]))
            if self.fails:
                raise RuntimeError("the model failed")
            if self.waits:
                self._waiting.set()
                await asyncio.Event().wait()
            yield ChatGenerationChunk(message=AIMessageChunk(content="", usage_metadata=_USAGE))
        except (asyncio.CancelledError, GeneratorExit) as end:
            self._seen.append(type(end))
            raise

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        config = var_child_runnable_config.get() or {}
        tags, metadata = config.get("tags"), config.get("metadata")
        self._seen.append((messages, stop, kwargs, tags, metadata, bool(run_manager.handlers)))
        if self.fails:
            raise RuntimeError("the model failed")
        message = AIMessage("Cats purr.", usage_metadata=_USAGE)
        return ChatResult(generations=[ChatGeneration(message=message)], llm_output={"model_name": "script"})

    def taken(self) -> list[Any]:
        """Return what it has seen since the last call."""
        seen, self._seen = self._seen, []
        return seen


class Mute(Script):
    """A script that fails before its first chunk."""

    def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        raise RuntimeError("not a chunk")


class Writer(Script):
    """A script that streams these texts, or else parts of tool calls.

    Args:
        texts: the texts; none: the tool calls.
    """

    texts: tuple[str, ...] = ()

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        chunks = [AIMessageChunk(content=text) for text in self.texts] or [
            AIMessageChunk(content="", tool_call_chunks=[part]) for part in _CALLS
        ]
        for chunk in chunks:
            yield ChatGenerationChunk(message=chunk)


class Search(BaseModel):
    """The canned JSON as an object."""

    q: str
    n: Any = None


@dataclass(frozen=True)
class CannedChain:
    """One chain, its model and its input.

    Args:
        ways: the ways in which it is observed.
    """

    name: str
    model: Script
    chain: Runnable[Any, Any]
    ways: tuple[str, ...]
    value: Any = field(default_factory=lambda: {"topic": "cats"})


def canned_chains() -> list[CannedChain]:
    """Return chains with text, messages, a config, a step that needs a run, two errors, and one that never ends.

    Each way costs two milliseconds at the start, so none is here that takes the same turns as another.
    """
    model, failing, waiting = Script(), Script(fails=True), Script(waits=True)
    writer, caller = Writer(texts=_JSON), Writer()
    text = _PROMPT | model | StrOutputParser()
    bound = (_PROMPT | model.bind(stop=["."], seed=1) | StrOutputParser()).with_config(
        tags=["bound"], metadata={"team": "canned"}, run_name="bound"
    )
    retrieval = RunnablePassthrough.assign(context=itemgetter("topic")) | _PROMPT | model | StrOutputParser()
    choice = failing.configurable_alternatives(ConfigurableField("model"), default_key="a", b=model)
    return [
        CannedChain("text", model, text, ("chunks", "events", "tokens", "answer")),
        CannedChain("messages", model, _PROMPT | model, ("chunks", "answer")),
        CannedChain("bound", model, bound, ("chunks", "calls", "answer")),
        CannedChain("retrieval", model, retrieval, ("chunks",)),
        CannedChain("fallbacks", model, _PROMPT | Mute().with_fallbacks([failing, model]), ("chunks",)),
        CannedChain("configurable", failing, _PROMPT | choice, ("chunks",)),
        CannedChain("failing model", failing, _PROMPT | failing | StrOutputParser(), ("chunks", "calls", "answer")),
        CannedChain("failing prompt", model, text, ("chunks", "answer"), {}),
        CannedChain("json", writer, _PROMPT | writer | JsonOutputParser(), ("chunks", "calls")),
        CannedChain("object", writer, _PROMPT | writer | PydanticOutputParser(pydantic_object=Search), ("chunks",)),
        CannedChain("tool", caller, _PROMPT | caller | _FIRST, ("chunks", "calls")),
        CannedChain("tools", caller, _PROMPT | caller | JsonOutputToolsParser(return_id=True), ("chunks",)),
        CannedChain("waiting", waiting, _PROMPT | waiting | StrOutputParser(), ("cancelled",)),
    ]
