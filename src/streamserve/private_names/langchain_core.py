"""langchain-core: what `streamserve.lcel` rewrites and calls, the bridge to events of version 3, the beta warning.

Without a function that a piece of `streamserve.lcel` watches, that piece is off: chains stream at LangChain's cost.
Without the bridge, only chat models and graphs have events of version 3; without the other, they warn of a beta.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, cast

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.prompts import BasePromptTemplate

from streamserve.private_names import find

_RUN = (
    "langchain_core.runnables:Runnable.get_name",
    "langchain_core.runnables:Runnable._atransform_stream_with_config",
    "langchain_core.callbacks.manager:_configure",
    "langchain_core.runnables.config:ensure_config",
    "langchain_core.runnables.config:patch_config",
    "langchain_core.runnables.utils:coro_with_context",
    "langchain_core.messages:AIMessageChunk.__add__",
    "langchain_core.messages.ai:add_ai_message_chunks",
)
_PARSER = (
    *_RUN,
    "langchain_core.output_parsers:BaseTransformOutputParser.atransform",
    "langchain_core.output_parsers:BaseCumulativeTransformOutputParser._atransform",
    "langchain_core.output_parsers.base:BaseOutputParser.aparse_result",
    "langchain_core.utils.json:parse_partial_json",
)
# The functions that each piece rewrites or relies on: module and name.
WATCHED: Mapping[str, tuple[str, ...]] = {
    "sequence": (
        *_RUN,
        "langchain_core.runnables:Runnable.atransform",
        "langchain_core.runnables:RunnableSequence.astream",
        "langchain_core.runnables:RunnableSequence.atransform",
        "langchain_core.runnables:RunnableSequence._atransform",
    ),
    "binding": (
        "langchain_core.runnables.base:RunnableBindingBase.astream",
        "langchain_core.runnables.base:RunnableBindingBase.atransform",
        "langchain_core.runnables.base:RunnableBindingBase._merge_configs",
        "langchain_core.runnables.config:merge_configs",
    ),
    "parser": (
        *_RUN,
        "langchain_core.output_parsers:BaseTransformOutputParser.atransform",
        "langchain_core.output_parsers:BaseTransformOutputParser._atransform",
        "langchain_core.output_parsers.base:BaseOutputParser.parse_result",
        "langchain_core.output_parsers:StrOutputParser.parse",
    ),
    "json": (
        *_PARSER,
        "langchain_core.output_parsers:JsonOutputParser.parse_result",
        "langchain_core.output_parsers:PydanticOutputParser.parse_result",
        "langchain_core.utils.json:parse_json_markdown",
    ),
    "tools": (
        *_PARSER,
        "langchain_core.output_parsers.openai_tools:JsonOutputToolsParser.parse_result",
        "langchain_core.output_parsers.openai_tools:JsonOutputKeyToolsParser.parse_result",
        "langchain_core.output_parsers.openai_tools:PydanticToolsParser.parse_result",
        "langchain_core.messages:AIMessageChunk.init_tool_calls",
        "langchain_core.utils._merge:merge_lists",
    ),
    "prompt": (
        "langchain_core.runnables:Runnable.atransform",
        "langchain_core.prompts:BasePromptTemplate.ainvoke",
        "langchain_core.prompts:BasePromptTemplate._aformat_prompt_with_error_handling",
        "langchain_core.prompts:BasePromptTemplate._format_prompt_with_error_handling",
    ),
    "model": (
        "langchain_core.runnables:Runnable.atransform",
        "langchain_core.language_models:BaseChatModel.astream",
        "langchain_core.language_models:BaseChatModel._astream",
        "langchain_core.language_models:BaseChatModel._should_stream",
        "langchain_core.language_models:BaseChatModel._convert_input",
        "langchain_core.language_models.chat_models:_gen_info_and_msg_metadata",
        "langchain_core.language_models._utils:_normalize_messages",
    ),
    "fallbacks": (
        "langchain_core.runnables:Runnable.atransform",
        "langchain_core.runnables.fallbacks:RunnableWithFallbacks.astream",
        "langchain_core.runnables.utils:coro_with_context",
    ),
    "configurable": (
        "langchain_core.runnables.configurable:DynamicRunnable.astream",
        "langchain_core.runnables.configurable:DynamicRunnable.atransform",
        "langchain_core.runnables.configurable:DynamicRunnable.prepare",
        "langchain_core.runnables.configurable:RunnableConfigurableAlternatives._prepare",
        "langchain_core.runnables.configurable:RunnableConfigurableFields._prepare",
    ),
    "handlers": (
        "langchain_core.callbacks.manager:ahandle_event",
        "langchain_core.callbacks.manager:handle_event",
        "langchain_core.callbacks.manager:_ahandle_event_for_handler",
        "langchain_core.callbacks.manager:AsyncCallbackManagerForLLMRun.on_llm_new_token",
        "langchain_core.callbacks.manager:AsyncParentRunManager.get_child",
    ),
    "call": (
        "langchain_core.callbacks.manager:_configure",
        "langchain_core.runnables.config:ensure_config",
        "langchain_core.runnables:RunnableSequence.ainvoke",
        "langchain_core.runnables.base:RunnableBindingBase.ainvoke",
        "langchain_core.prompts:BasePromptTemplate.ainvoke",
        "langchain_core.prompts:BasePromptTemplate._format_prompt_with_error_handling",
        "langchain_core.language_models:BaseChatModel.ainvoke",
        "langchain_core.language_models:BaseChatModel.agenerate_prompt",
        "langchain_core.language_models:BaseChatModel.agenerate",
        "langchain_core.language_models:BaseChatModel._agenerate_with_cache",
        "langchain_core.language_models:BaseChatModel._should_stream",
        "langchain_core.language_models:BaseChatModel._agenerate",
        "langchain_core.language_models.chat_models:_gen_info_and_msg_metadata",
        "langchain_core.language_models:BaseChatModel._convert_input",
        "langchain_core.language_models._utils:_normalize_messages",
        "langchain_core.output_parsers.base:BaseOutputParser.ainvoke",
        "langchain_core.output_parsers.base:BaseOutputParser.aparse_result",
        "langchain_core.output_parsers.base:BaseOutputParser.parse_result",
        "langchain_core.output_parsers:StrOutputParser.parse",
    ),
}

# The class of `model.bind(...)`, a binding with other types for type checkers; None: such models are as declared.
ModelBinding: type[Any] | None = find("langchain_core.language_models.chat_models", "_ChatModelBinding")

# Called only while the piece "model" or "call" is on, which watch them.
metadata_of: Any = find("langchain_core.language_models.chat_models", "_gen_info_and_msg_metadata")
_normalized: Any = find("langchain_core.language_models._utils", "_normalize_messages")


def watched(piece: str) -> list[Any]:
    """Return the functions that a piece watches, None for one that is gone."""
    return [find(*name.split(":")) for name in WATCHED[piece]]


def prompt_value(prompt: BasePromptTemplate[Any], value: Any) -> Any:
    """Return a prompt's value for an input; only while the piece "prompt" or "call" is on."""
    return prompt._format_prompt_with_error_handling(value)


def streams(model: BaseChatModel, **arguments: Any) -> bool:
    """Return whether a model streams with these arguments; only while the piece "model" is on."""
    return model._should_stream(async_api=True, **{**arguments, "stream": True})


def messages_of(model: BaseChatModel, value: LanguageModelInput) -> list[BaseMessage]:
    """Return a model's input as its messages; only while the piece "model" or "call" is on."""
    return cast("list[BaseMessage]", _normalized(model._convert_input(value).to_messages()))


def input_messages(model: BaseChatModel, value: LanguageModelInput) -> list[BaseMessage]:
    """Return a model's input as its messages, or none if langchain-core does not tell them."""
    convert = getattr(model, "_convert_input", None)
    return cast("list[BaseMessage]", convert(value).to_messages()) if convert else []


def chunks_of(
    model: BaseChatModel, messages: list[BaseMessage], stop: list[str] | None, **arguments: Any
) -> AsyncIterator[ChatGenerationChunk]:
    """Return a model's own stream, without a run; only while the piece "model" is on."""
    return model._astream(messages, stop=stop, **arguments)


_ANSWERS = ("ainvoke", "agenerate_prompt", "agenerate", "_agenerate_with_cache")


def answers_as_its_base(kind: type[BaseChatModel]) -> bool:
    """Return whether a kind of model has only its provider's code of its own; only while the piece "call" is on."""
    return all(getattr(kind, name) is getattr(BaseChatModel, name) for name in _ANSWERS)


async def answer_of(
    model: BaseChatModel, messages: list[BaseMessage], stop: list[str] | None, run: Any, **arguments: Any
) -> ChatResult:
    """Return a model's own answer, without a run; only while the piece "call" is on."""
    return await model._agenerate_with_cache(messages, stop=stop, run_manager=run, **arguments)


def streams_when_called(model: BaseChatModel, run: Any, **arguments: Any) -> bool:
    """Return whether a call of a model streams within itself; only while the piece "call" is on."""
    return model._should_stream(async_api=True, run_manager=run, **arguments)


async def generated(
    model: BaseChatModel, messages: list[BaseMessage], stop: list[str] | None, **arguments: Any
) -> ChatResult:
    """Return what a provider's own code makes of messages; only while the piece "call" is on."""
    return await model._agenerate(messages, stop=stop, **arguments)


def generation_of(kind: type[BaseChatModel]) -> Any:
    """Return a provider's own code for a call; only while the piece "call" is on."""
    return kind._agenerate


class EventBridge(NamedTuple):
    """Two functions that make events of version 3: from a stream of chunks, and from a whole message."""

    of_chunks: Any
    of_message: Any


def event_bridge() -> EventBridge:
    """Return LangChain's functions that make events of version 3.

    Raises:
        NotImplementedError: the installed langchain-core does not have them.
    """
    module = "langchain_core.language_models._compat_bridge"
    of_chunks, of_message = find(module, "achunks_to_events"), find(module, "message_to_events")
    if of_chunks is None or of_message is None:
        raise NotImplementedError("this version of langchain-core makes no events of version 3 from a model's chunks")
    return EventBridge(of_chunks, of_message)


def without_beta_warning() -> AbstractContextManager[None]:
    """Return a context in which LangChain does not warn that an API is a beta."""
    suppress = find("langchain_core._api", "suppress_langchain_beta_warning")
    return nullcontext() if suppress is None else cast("AbstractContextManager[None]", suppress())
