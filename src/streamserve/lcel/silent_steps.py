"""Streams of a sequence's prompts and chat models without a run per step, while no handler observes the sequence.

Only steps that run no code but langchain-core's and their provider's can be silent. Unlike upstream, a chat model's
chunks are not kept and added up for a callback handler that is not there.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, cast

from langchain_core import prompts
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableWithFallbacks
from langchain_core.utils.utils import LC_ID_PREFIX
from langchain_core.utils.uuid import uuid7

from streamserve.lcel.self_check import Pieces
from streamserve.lcel.traced_stream import NOTHING, Stream, close, gather
from streamserve.private_names.langchain_core import chunks_of, messages_of, metadata_of, prompt_value, streams

# Makes a step's stream of its inputs, its arguments and the config; None: with these it cannot be silent.
Silent = Callable[[Stream, dict[str, Any], RunnableConfig], Stream | None]

# Of one text each.
_TEMPLATES = (
    prompts.AIMessagePromptTemplate,
    prompts.ChatMessagePromptTemplate,
    prompts.HumanMessagePromptTemplate,
    prompts.SystemMessagePromptTemplate,
)


def silent(step: Runnable[Any, Any], on: Pieces) -> Silent | None:
    """Return how a step streams without a run, or None if it needs one."""
    if type(step) is prompts.ChatPromptTemplate:
        return partial(_format_prompt, step) if "prompt" in on and is_plain(step) else None
    if isinstance(step, BaseChatModel) and "model" in on and _streams_as_its_base(type(step)):
        return partial(_stream_model, step)
    return None


def is_plain(prompt: prompts.ChatPromptTemplate) -> bool:
    """Return whether a prompt is made of texts and messages only, and runs no code of others."""
    templates: list[Any] = [message for message in prompt.messages if not isinstance(message, BaseMessage)]
    texts = [template.prompt for template in templates if type(template) in _TEMPLATES]
    return (
        all(type(template) in (*_TEMPLATES, prompts.MessagesPlaceholder) for template in templates)
        and all(type(text) is prompts.PromptTemplate for text in texts)
        and not any(callable(value) for each in (prompt, *texts) for value in each.partial_variables.values())
    )


async def _format_prompt(
    prompt: prompts.ChatPromptTemplate, inputs: Stream, _kwargs: dict[str, Any], _config: RunnableConfig
) -> AsyncIterator[Any]:
    try:
        whole = await gather(inputs)
        if whole is not NOTHING:
            yield prompt_value(prompt, whole)
    finally:
        await close(inputs)


def _streams_as_its_base(kind: type[BaseChatModel]) -> bool:
    return kind.astream is BaseChatModel.astream and kind.atransform is Runnable.atransform


def _stream_model(
    model: BaseChatModel, inputs: Stream, kwargs: dict[str, Any], _config: RunnableConfig
) -> Stream | None:
    if model.callbacks or model.verbose or model.output_version == "v1":
        return None
    others = {name: value for name, value in kwargs.items() if name != "stop"}
    if not streams(model, **others):
        return None
    return _chunks(model, inputs, kwargs.get("stop"), without_formats(others))


def without_formats(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return a model's arguments without the one that only tracers see."""
    others = dict(kwargs)
    # As upstream: the older name counts only where the newer one is missing.
    others.pop("ls_structured_output_format", None) or others.pop("structured_output_format", None)
    return others


async def _chunks(
    model: BaseChatModel, inputs: Stream, stop: list[str] | None, kwargs: dict[str, Any]
) -> AsyncIterator[Any]:
    stream, message = None, None
    try:
        given = await gather(inputs)
        if given is NOTHING:
            return
        messages = messages_of(model, given)
        if model.rate_limiter:
            await model.rate_limiter.aacquire(blocking=True)
        message_id = f"{LC_ID_PREFIX}-{uuid7()}"
        stream = chunks_of(model, messages, stop, **kwargs)
        async for chunk in stream:
            message = chunk.message
            if message.id is None:
                message.id = message_id
            message.response_metadata = metadata_of(chunk)
            yield message
        if message is None:
            raise ValueError("No generation chunks were returned")
        if isinstance(message, AIMessageChunk) and not message.chunk_position:
            nothing: str | list[Any] = "" if isinstance(message.content, str) else []
            yield AIMessageChunk(content=nothing, chunk_position="last", id=message_id)
    finally:
        await close(stream)
        await close(inputs)


def with_fallbacks(step: RunnableWithFallbacks[Any, Any], ways: Sequence[Silent | None]) -> Silent | None:
    """Return how a step with fallbacks streams without a run.

    Args:
        step: the step.
        ways: how the step itself and each of its fallbacks stream without a run.
    """
    if step.exception_key is not None or None in ways:
        return None
    return partial(_stream_first, step, cast("Sequence[Silent]", ways))


def _stream_first(
    step: RunnableWithFallbacks[Any, Any],
    ways: Sequence[Silent],
    inputs: Stream,
    kwargs: dict[str, Any],
    config: RunnableConfig,
) -> Stream | None:
    if any(way(inputs, kwargs, config) is None for way in ways):
        return None
    return _first_that_works(step, ways, inputs, kwargs, config)


async def _first_that_works(
    step: RunnableWithFallbacks[Any, Any],
    ways: Sequence[Silent],
    inputs: Stream,
    kwargs: dict[str, Any],
    config: RunnableConfig,
) -> AsyncIterator[Any]:
    stream, error, chunk = None, None, None
    try:
        given = await gather(inputs)
        if given is NOTHING:
            return
        for way in ways:
            stream = cast(Stream, way(once(given), kwargs, config))
            try:
                chunk = await anext(stream)
            except step.exceptions_to_handle as failure:
                error = error or failure
            else:
                error = None
                break
        if error is not None:
            raise error
        yield chunk
        async for chunk in cast(Stream, stream):
            yield chunk
    finally:
        await close(stream)
        await close(inputs)


async def once(value: Any) -> AsyncIterator[Any]:
    """Yield one value."""
    yield value
