"""Decode JSON into messages, documents and the other values that chains yield.

A dict is decoded by its tag: `"type"` names a class of LangChain (the table is LangServe's list of well-known types),
`"__type__"` beside `"value"` names a type that JSON lacks. A dict that fits no tag stays a dict.
StreamServe sends types beside the JSON instead: a map of JSON pointers (RFC 6901) to the names in `MAKERS`, or to
`dict` for a dict that only looks like a message.
"""

from base64 import b64decode
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from importlib import import_module
from typing import Any
from uuid import UUID

from langchain_core.agents import AgentAction, AgentActionMessageLog, AgentFinish
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    ChatMessageChunk,
    FunctionMessage,
    FunctionMessageChunk,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    SystemMessageChunk,
    ToolMessage,
    ToolMessageChunk,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, LLMResult
from langchain_core.prompt_values import ChatPromptValue, ChatPromptValueConcrete, StringPromptValue
from pydantic import BaseModel, TypeAdapter

from streamserve_sdk.codec.json_text import parse
from streamserve_sdk.codec.message_chunks import MessageChunks

MODELS: dict[str, type[BaseModel]] = {
    "ai": AIMessage,
    "human": HumanMessage,
    "chat": ChatMessage,
    "system": SystemMessage,
    "function": FunctionMessage,
    "tool": ToolMessage,
    **{
        kind.__name__: kind
        for kind in (
            AIMessageChunk,
            HumanMessageChunk,
            ChatMessageChunk,
            SystemMessageChunk,
            FunctionMessageChunk,
            ToolMessageChunk,
            Document,
            StringPromptValue,
            ChatPromptValueConcrete,
            AgentAction,
            AgentFinish,
            AgentActionMessageLog,
            ChatGeneration,
            Generation,
            ChatGenerationChunk,
            LLMResult,
        )
    },
}


def _from_langgraph(name: str) -> Callable[[Any], Any]:
    """Return a maker of a class of langgraph.types, which is imported when the first such value arrives."""

    def make(value: Any) -> Any:
        return getattr(import_module("langgraph.types"), name)(**value)

    return make


def _bytes(text: str) -> bytes:
    """Decode base64 in either alphabet: pydantic writes the one for URLs."""
    return b64decode(text.replace("-", "+").replace("_", "/"), validate=True)


def _of_list(kind: type) -> Callable[[Any], Any]:
    """Return a maker of a collection; a text would be taken for its characters."""

    def make(value: Any) -> Any:
        return kind(value) if isinstance(value, list) else value

    return make


# A type's name -> a function that makes the value of its decoded JSON. Add a line to support a further type.
MAKERS: dict[str, Callable[[Any], Any]] = {
    "bytes": _bytes,
    "chat_prompt": lambda value: ChatPromptValue(**value),
    "command": _from_langgraph("Command"),
    "date": date.fromisoformat,
    "datetime": datetime.fromisoformat,
    "decimal": Decimal,
    "frozenset": _of_list(frozenset),
    "graph_output": _from_langgraph("GraphOutput"),
    "interrupt": _from_langgraph("Interrupt"),
    "overwrite": _from_langgraph("Overwrite"),
    "remove_message": lambda value: RemoveMessage(**value),
    "send": _from_langgraph("Send"),
    "set": _of_list(set),
    "time": time.fromisoformat,
    "timedelta": TypeAdapter(timedelta).validate_python,
    "tuple": _of_list(tuple),
    "uuid": UUID,
}
_TAGGED = {"__type__", "value"}
# The exceptions of makers and models for a dict that only looks like theirs; Decimal raises ArithmeticError.
_NO_FIT = (ValueError, TypeError, AttributeError, KeyError, ArithmeticError, ImportError)


_CHUNKS = MessageChunks()


def _plain_chunk(value: dict[str, Any], data: bytes | None = None) -> AIMessageChunk | None:
    try:
        return _CHUNKS.make(value, data)
    except _NO_FIT:
        return None


def loads(data: bytes | str) -> Any:
    """Return the value that a JSON text stands for.

    Args:
        data: the JSON text.

    Raises:
        ValueError: the text is not JSON, or is nested too deeply.
    """
    text = data if type(data) is bytes else None
    if text is not None and (chunk := _CHUNKS.read(text)) is not None:
        return chunk
    value = parse(data)
    if type(value) is str:
        return value
    try:
        return _object(value, text) if type(value) is dict else loadd(value)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def loadd(value: Any) -> Any:
    """Return the value that a parsed JSON value stands for.

    Args:
        value: dicts, lists and scalars as a JSON parser makes them.
    """
    kind = type(value)
    if kind is dict:
        return _object(value)
    if kind is list:
        return list(map(loadd, value))
    return value


def _object(value: dict[str, Any], data: bytes | None = None) -> Any:
    if value.get("type") == "AIMessageChunk" and (chunk := _plain_chunk(value, data)) is not None:
        return chunk
    decoded = value.copy()
    for key, item in value.items():
        if item and type(item) in _CONTAINERS:
            decoded[key] = loadd(item)
    return _typed(decoded)


def hinted(value: Any, types: dict[str, str], pointer: str = "") -> Any:
    """Return the value that a parsed JSON value stands for, using the types that came beside it.

    Args:
        value: dicts, lists and scalars as a JSON parser makes them.
        types: a map of JSON pointers to names of types.
        pointer: the JSON pointer of the value in the whole; default: the whole itself.
    """
    name = types.get(pointer)
    if isinstance(value, dict):
        value = {key: hinted(item, types, f"{pointer}/{_escaped(key)}") for key, item in value.items()}
        if name is None:
            return _typed(value)
    elif isinstance(value, list):
        value = [hinted(item, types, f"{pointer}/{index}") for index, item in enumerate(value)]
    try:
        return MAKERS[name](value) if name in MAKERS else value
    except _NO_FIT:
        return value


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


_CONTAINERS = frozenset({dict, list})


def _typed(value: dict[str, Any]) -> Any:
    tag = value.get("type")
    model = MODELS.get(tag) if type(tag) is str else None
    try:
        if model is AIMessageChunk:
            return AIMessageChunk(**value)  # nearly every token is one, and validation only calls this
        if model is not None:
            return model.model_validate(value)
        if value.keys() == _TAGGED and value["__type__"] in MAKERS:
            return MAKERS[value["__type__"]](value["value"])
    except _NO_FIT:
        return value
    return value
