"""Calls of a sequence's prompts, chat models and text parsers without a run per step, while no handler observes it.

Only steps that run no code but langchain-core's and their provider's can be silent. Unlike upstream, the run that a
model is given has no tags and no metadata, which only a handler would see.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, cast
from uuid import UUID

from langchain_core import output_parsers, prompts
from langchain_core.callbacks import AsyncCallbackManager, AsyncCallbackManagerForLLMRun
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.utils.utils import LC_ID_PREFIX
from langchain_core.utils.uuid import uuid7

from streamserve.lcel.silent_steps import is_plain, without_formats
from streamserve.private_names.langchain_core import (
    answer_of,
    answers_as_its_base,
    generated,
    generation_of,
    messages_of,
    metadata_of,
    prompt_value,
    streams_when_called,
)

# With these among its arguments, a chat model raises.
_OF_RUN = frozenset({"callbacks", "tags", "metadata", "run_name", "run_id"})


class SilentCall(NamedTuple):
    """A step that is called without a run.

    Args:
        call: the step, of its input, its arguments and the id of the run above it.
        model: the step, if it is a chat model.
        bound: arguments that a binding adds (default none).
    """

    call: Callable[[Any, dict[str, Any], UUID | None], Awaitable[Any]]
    model: BaseChatModel | None = None
    bound: Mapping[str, Any] = {}

    def is_possible(self) -> bool:
        """Return whether the step needs no run now: a model's own handlers may come later."""
        return self.model is None or not (self.model.callbacks or self.model.verbose)


def silent_call(step: Runnable[Any, Any]) -> SilentCall | None:
    """Return how a step is called without a run, or None if it needs one."""
    if type(step) is prompts.ChatPromptTemplate and is_plain(step):
        return SilentCall(lambda value, _kwargs, _run_id: _formatted(step, value))
    if isinstance(step, BaseChatModel) and answers_as_its_base(type(step)):
        return SilentCall(lambda value, kwargs, run_id: _answered(step, value, kwargs, run_id), step)
    return None


def parser_call(parser: output_parsers.StrOutputParser) -> SilentCall:
    """Return how a text parser is called without a run and without an OS thread."""
    return SilentCall(lambda value, _kwargs, _run_id: _parsed(parser, value))


def bound_call(inner: SilentCall | None, arguments: Mapping[str, Any]) -> SilentCall | None:
    """Return how the step of a binding is called."""
    if inner is None or (inner.model is not None and not _OF_RUN.isdisjoint(arguments)):
        return None
    return inner._replace(bound={**inner.bound, **arguments})


async def _formatted(prompt: prompts.ChatPromptTemplate, value: Any) -> Any:
    return prompt_value(prompt, value)


async def _parsed(parser: output_parsers.StrOutputParser, value: Any) -> str:
    is_message = isinstance(value, BaseMessage)
    generation = ChatGeneration(message=cast(BaseMessage, value)) if is_message else Generation(text=value)
    return parser.parse_result([generation])


async def _answered(model: BaseChatModel, value: Any, kwargs: dict[str, Any], run_id: UUID | None) -> BaseMessage:
    others = without_formats(kwargs)
    stop = others.pop("stop", None)
    run = AsyncCallbackManagerForLLMRun(
        run_id=uuid7(), handlers=[], inheritable_handlers=[], parent_run_id=run_id, tags=[], metadata={}
    )
    messages = messages_of(model, value)
    if not _is_simple(model) or streams_when_called(model, run, **others):
        return (await answer_of(model, messages, stop, run, **others)).generations[0].message
    managed = {"run_manager": run} if _takes_run(type(model)) else {}
    result = await generated(model, messages, stop, **managed, **others)
    message = result.generations[0].message
    if message.id is None:
        message.id = f"{LC_ID_PREFIX}-{run.run_id}-0"
    message.response_metadata = metadata_of(result.generations[0])
    if len(result.generations) == 1 and result.llm_output is not None:
        message.response_metadata = {**result.llm_output, **message.response_metadata}
    return message


def _is_simple(model: BaseChatModel) -> bool:
    """Return whether an answer is what the provider's code returns: no cache, no rate limit, no other form."""
    uncached = model.cache is False or (model.cache is None and get_llm_cache() is None)
    return uncached and model.rate_limiter is None and model.output_version != "v1"


@cache
def _takes_run(kind: type[BaseChatModel]) -> bool:
    # Upstream finds out for each call, which takes a tenth of a short one.
    return "run_manager" in inspect.signature(generation_of(kind)).parameters


async def answer(calls: Sequence[SilentCall], value: Any, config: RunnableConfig, kwargs: dict[str, Any]) -> Any:
    """Return the answer of silent steps, one after the other."""
    child = below(config)
    for call in calls:
        value, kwargs = await called(call, value, kwargs, child, config.get("run_id")), {}
    return value


async def called(
    call: SilentCall, value: Any, kwargs: dict[str, Any], config: RunnableConfig, run_id: UUID | None
) -> Any:
    """Return the answer of one silent step, below a config."""
    above = var_child_runnable_config.set(config)
    try:
        return await call.call(value, {**call.bound, **kwargs}, run_id)
    finally:
        var_child_runnable_config.reset(above)


def below(config: RunnableConfig) -> RunnableConfig:
    """Return the config below an unobserved run: what a model calls by itself is a part of that run."""
    runs = AsyncCallbackManager(handlers=[], parent_run_id=cast(Any, config.get("run_id")))
    named = {name: value for name, value in config.items() if name not in ("run_id", "run_name")}
    return cast(RunnableConfig, {**named, "callbacks": runs})
