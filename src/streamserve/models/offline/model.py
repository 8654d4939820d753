"""OfflineChatModel: a whole chat model without a network, stateless and deterministic."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import ToolCall, tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

from streamserve.models.offline.question import read
from streamserve.models.offline.replies import reply
from streamserve.models.offline.tools import next_call

MODEL_NAME = "streamserve-offline"


class OfflineChatModel(BaseChatModel):
    """Answers by rule, word by word: text, tool calls and structured output, with usage.

    Args:
        pace: seconds before each token when streaming (default 0.03); `invoke` answers at once.
    """

    pace: float = Field(0.03, ge=0)

    @property
    def _llm_type(self) -> str:
        return MODEL_NAME

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": MODEL_NAME}

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """A model that may call these tools.

        Args:
            tools: functions, tools, pydantic classes or schemas.
            tool_choice: "auto" (default), "none", "any" or "required", a tool's name, or OpenAI's dict.
        """
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], tool_choice=tool_choice, **kwargs)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in answer(messages, stop, **kwargs):
            time.sleep(self.pace)
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in answer(messages, stop, **kwargs):
            await asyncio.sleep(self.pace)
            if run_manager:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(answer(messages, stop, **kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(answer(messages, stop, **kwargs))


def answer(
    messages: Sequence[BaseMessage],
    stop: Sequence[str] | None = None,
    *,
    tools: Sequence[dict[str, Any]] = (),
    tool_choice: Any = None,
    **_: Any,
) -> Iterator[ChatGenerationChunk]:
    """All chunks of the answer to a conversation, without any pace."""
    question = read(messages)
    call = next_call(messages, question, tools, tool_choice)
    chunks = _call_chunks(call) if call else _text_chunks(_until(stop, reply(question)))
    written = 0
    for message in chunks:
        written += 1
        yield ChatGenerationChunk(message=message)
    asked = sum(len(_tokens(str(message.text))) for message in messages)
    yield _last_chunk("tool_calls" if call else "stop", asked, written)


def _text_chunks(text: str) -> Iterator[AIMessageChunk]:
    for token in _tokens(text):
        yield AIMessageChunk(content=token)


def _call_chunks(call: ToolCall) -> Iterator[AIMessageChunk]:
    opening = tool_call_chunk(name=call["name"], args="", id=call["id"], index=0)
    yield AIMessageChunk(content="", tool_call_chunks=[opening])
    for token in _tokens(json.dumps(call["args"], ensure_ascii=False)):
        yield AIMessageChunk(content="", tool_call_chunks=[tool_call_chunk(args=token, index=0)])


def _last_chunk(finish_reason: str, asked: int, written: int) -> ChatGenerationChunk:
    message = AIMessageChunk(
        content="",
        chunk_position="last",
        response_metadata={"model_name": MODEL_NAME, "finish_reason": finish_reason},
        usage_metadata={"input_tokens": asked, "output_tokens": written, "total_tokens": asked + written},
    )
    return ChatGenerationChunk(message=message, generation_info={"finish_reason": finish_reason})


def _tokens(text: str) -> list[str]:
    """Words with the white space before them: joined, they are the text again."""
    return re.findall(r"\s*\S+|\s+$", text)


def _until(stop: Sequence[str] | None, text: str) -> str:
    ends = [text.find(mark) for mark in stop or () if mark and mark in text]
    return text[: min(ends)] if ends else text
