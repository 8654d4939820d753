"""ChatOpenAI for servers other than OpenAI's.

Divergences from the base class: `reasoning_content` is kept and goes back in a tool loop, a stream without a finish
reason or an answer that is no completion raises an error, llama.cpp's context overflow has the same type as OpenAI's,
and a server that refuses `stream_options` is asked again without.
"""

import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import httpx
import openai
from langchain_core.exceptions import ContextOverflowError, ModelAPIError, ModelConnectionError
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_openai.chat_models.base import OpenAIContextOverflowError
from pydantic import Field, PrivateAttr

from streamserve.errors.providers import UpstreamTruncated
from streamserve.models.openai.completions import ChunkChatOpenAI
from streamserve.models.openai.self_check import is_on
from streamserve.private_names.langchain_core import input_messages

# A provider name without a translator in langchain-core: `content_blocks` then shows the reasoning.
COMPATIBLE = "openai-compatible"


# A stream is asked for as configured, then without `stream_options` if the server refuses them.
TRIES: tuple[dict[str, bool], ...] = ({}, {"stream_usage": False})

logger = logging.getLogger(__name__)


class CompatibleChatOpenAI(ChunkChatOpenAI):
    """The chat model for OpenAI and for every server with OpenAI's protocol.

    The arguments and errors are ChatOpenAI's. In addition, a stream that stops before its end raises
    `UpstreamTruncated`, and a prompt that is too long raises `langchain_core.exceptions.ContextOverflowError`.

    Args:
        require_finish: whether a stream without a finish reason raises `UpstreamTruncated` (default true).
    """

    require_finish: bool = Field(True, exclude=True)

    def model_post_init(self, context: Any) -> None:
        """Have the fast stream checked at the start, not in the first stream."""
        super().model_post_init(context)
        _ = self.fast_stream and is_on()

    def _can_be_fast(self, completions: Any, kind: type[Any], kwargs: dict[str, Any]) -> bool:
        return super()._can_be_fast(completions, kind, kwargs) and is_on()

    # Names of the field in which the server has sent its reasoning; copies of the model share them.
    _reasoning_fields: set[str] = PrivateAttr(default_factory=set)

    def _get_request_payload(
        self, input_: LanguageModelInput, *, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        payload = super()._get_request_payload(input_, stop=stop, **kwargs)
        if self.openai_api_base and (sent := payload.get("messages")):
            field = "reasoning" if "reasoning" in self._reasoning_fields else "reasoning_content"
            for place, reasoning in _open_reasoning(input_messages(self, input_)):
                sent[place][field] = reasoning
        return payload

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for usage in TRIES:
            try:
                with _whole_stream(self.require_finish) as observe:
                    for chunk in super()._stream(*args, **kwargs | usage):
                        observe(chunk)
                        yield chunk
            except openai.APIStatusError as error:
                if usage or not _refuses_usage(error):
                    raise
            else:
                self._remember(usage)
                return

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        for usage in TRIES:
            try:
                with _whole_stream(self.require_finish) as observe:
                    async for chunk in super()._astream(*args, **kwargs | usage):
                        observe(chunk)
                        yield chunk
            except openai.APIStatusError as error:
                if usage or not _refuses_usage(error):
                    raise
            else:
                self._remember(usage)
                return

    def _remember(self, usage: dict[str, bool]) -> None:
        # After a whole answer only: a refusal may quote a caller's text, and that must not change the model.
        if usage and self.stream_usage:
            self.stream_usage = False
            logger.warning("the model server refuses stream_options: its streams come without token counts")

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        with _typed_errors():
            return super()._generate(*args, **kwargs)

    async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
        with _typed_errors():
            return await super()._agenerate(*args, **kwargs)

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        converted = super()._convert_chunk_to_generation_chunk(chunk, default_chunk_class, base_generation_info)
        choices = chunk.get("choices") or chunk.get("chunk", {}).get("choices")
        if converted is not None and choices:
            self._keep_reasoning(converted.message, choices[0].get("delta"))
        return converted

    def _create_chat_result(
        self, response: dict[str, Any] | openai.BaseModel, generation_info: dict[str, Any] | None = None
    ) -> ChatResult:
        body = response.model_dump(warnings=False) if isinstance(response, openai.BaseModel) else response
        self._require_completion(body)
        result = super()._create_chat_result(response, generation_info)
        for generation, choice in zip(result.generations, body["choices"], strict=True):
            self._keep_reasoning(generation.message, choice["message"])
        if self.openai_api_base and result.llm_output is not None:
            result.llm_output["model_provider"] = COMPATIBLE
        return result

    def _require_completion(self, body: Any) -> None:
        # LangChain raises a ValueError, KeyError or TypeError here, which look like faults of the chain.
        if isinstance(body, dict) and (error := body.get("error")):
            request: Any = httpx.Request("POST", str(self.root_async_client.base_url))
            raise openai.APIError("The model server answered with an error.", request, body=error)
        if not isinstance(body, dict) or body.get("choices") is None:
            raise ModelAPIError("The model server answered with no completion.")

    def _get_generation_chunk_from_completion(self, completion: openai.BaseModel) -> ChatGenerationChunk:
        chunk = super()._get_generation_chunk_from_completion(completion)
        # This chunk repeats the whole answer, so the reasoning would appear twice.
        chunk.message.additional_kwargs.pop("reasoning_content", None)
        return chunk

    def _keep_reasoning(self, message: Any, source: dict[str, Any] | None) -> None:
        if not isinstance(message, AIMessage | AIMessageChunk):
            return
        if self.openai_api_base:
            message.response_metadata["model_provider"] = COMPATIBLE
        # `reasoning_content`: DeepSeek, llama.cpp, LM Studio; `reasoning`: vLLM, Ollama, OpenRouter.
        reasoning = (source or {}).get("reasoning_content")
        if not reasoning and (reasoning := (source or {}).get("reasoning")):
            self._reasoning_fields.add("reasoning")
        if reasoning:
            message.additional_kwargs["reasoning_content"] = reasoning


def _open_reasoning(messages: list[BaseMessage]) -> Iterator[tuple[int, Any]]:
    """Yield the place and the reasoning of each message that called a tool since the last question.

    DeepSeek refuses a tool's answer without the reasoning, and reasoning for an earlier question.
    """
    for place in reversed(range(len(messages))):
        message = messages[place]
        if isinstance(message, HumanMessage):
            return
        if not isinstance(message, AIMessage) or not message.tool_calls:
            continue
        reasoning = message.additional_kwargs.get("reasoning_content")
        if reasoning and message.response_metadata.get("model_provider") == COMPATIBLE:
            yield place, reasoning


def _refuses_usage(error: openai.APIStatusError) -> bool:
    refused = error.status_code in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
    return refused and "stream_options" in str(error.body)


@contextmanager
def _whole_stream(require_finish: bool) -> Iterator[Callable[[ChatGenerationChunk], None]]:
    started = finished = False

    def observe(chunk: ChatGenerationChunk) -> None:
        nonlocal started, finished
        started = True
        finished = finished or _ends(chunk)

    try:
        with _typed_errors():
            yield observe
    except ModelConnectionError as error:
        if not started:
            raise
        raise UpstreamTruncated("The model server broke off before its answer was complete.") from error
    if not started:
        raise ModelAPIError("The model server answered with no stream of chunks.")
    if require_finish and not finished:
        raise UpstreamTruncated("The model server ended its stream without a finish reason.")


def _ends(chunk: ChatGenerationChunk) -> bool:
    # Chat Completions mark the end with a finish reason, the Responses API with the chunk's position.
    position = getattr(chunk.message, "chunk_position", None)
    return position == "last" or bool((chunk.generation_info or {}).get("finish_reason"))


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except openai.BadRequestError as error:
        if error.type != "exceed_context_size_error" or isinstance(error, ContextOverflowError):
            raise
        raise OpenAIContextOverflowError(error.message, response=error.response, body=error.body) from error
    except json.JSONDecodeError as error:
        raise ModelAPIError("The model server sent something other than JSON.") from error
