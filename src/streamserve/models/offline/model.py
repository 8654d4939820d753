"""OfflineChatModel: a deterministic chat model without a network or a state."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import ToolCall, tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

from streamserve.models.offline.question import read
from streamserve.models.offline.replies import reply
from streamserve.models.offline.tools import next_call

MODEL_NAME = "streamserve-offline"
_tokens = re.compile(r"(?<!\s)\s*\S+|(?<!\s)\s+").findall


class OfflineChatModel(BaseChatModel):
    """A chat model that answers by rule, word by word, with text, tool calls, structured output and usage.

    Args:
        pace: time before each token of a stream, in seconds (default 0.03); `invoke` answers at once.
    """

    pace: float = Field(0.03, ge=0)

    @property
    def _llm_type(self) -> str:
        return MODEL_NAME

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[Any, AIMessage]:
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], tool_choice=tool_choice, **kwargs)

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for chunk in answer(messages, *args, **kwargs):
            time.sleep(self.pace)
            yield chunk

    async def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in answer(messages, *args, **kwargs):
            await asyncio.sleep(self.pace)
            yield chunk

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return generate_from_stream(answer(messages, *args, **kwargs))

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return self._generate(messages, *args, **kwargs)


def answer(messages: list[BaseMessage], stop: Any = None, *_: Any, **bound: Any) -> Iterator[ChatGenerationChunk]:
    """Yield the chunks of the answer to a conversation, without a pause."""
    question = read(messages)
    call = next_call(messages, question, bound.get("tools", ()), bound.get("tool_choice"))
    chunks = _call_chunks(call) if call else _text_chunks(reply(question), stop or ())
    yield from (ChatGenerationChunk(message=chunk) for chunk in chunks)
    prompt = sum(len(_tokens(str(message.text))) for message in messages)
    reason = {"finish_reason": "tool_calls" if call else "stop"}
    last = AIMessageChunk(
        content="",
        chunk_position="last",
        response_metadata={"model_name": MODEL_NAME, **reason},
        usage_metadata={"input_tokens": prompt, "output_tokens": len(chunks), "total_tokens": prompt + len(chunks)},
    )
    yield ChatGenerationChunk(message=last, generation_info=reason)


def _text_chunks(text: str, stop: Sequence[str]) -> list[AIMessageChunk]:
    end = min((text.find(mark) for mark in stop if mark in text), default=len(text))
    return [AIMessageChunk(content=token) for token in _tokens(text[:end])]


def _call_chunks(call: ToolCall) -> list[AIMessageChunk]:
    parts = [tool_call_chunk(name=call["name"], args="", id=call["id"], index=0)]
    parts += [tool_call_chunk(args=token, index=0) for token in _tokens(json.dumps(call["args"], ensure_ascii=False))]
    return [AIMessageChunk(content="", tool_call_chunks=[part]) for part in parts]
