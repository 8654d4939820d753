"""JSON -> messages, documents and the other things that chains yield.

A dict is read by its tag: `"type"` names LangChain's own classes (the table is LangServe's list of well-known
types), `"__type__"` beside `"value"` names what JSON has no form for. A dict that fits no tag stays a dict.
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

import orjson
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
from langchain_core.prompt_values import ChatPromptValueConcrete, StringPromptValue
from pydantic import BaseModel, TypeAdapter

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
    """Return a maker of a class of langgraph.types, which is imported only when such a value comes."""

    def make(value: Any) -> Any:
        return getattr(import_module("langgraph.types"), name)(**value)

    return make


def _bytes(text: str) -> bytes:
    """Return bytes of base64 in either alphabet: pydantic writes the one for URLs."""
    return b64decode(text.replace("-", "+").replace("_", "/"), validate=True)


# What a type's name makes of its JSON; each maker takes the decoded `value`. Add a line to teach a further type.
MAKERS: dict[str, Callable[[Any], Any]] = {
    "bytes": _bytes,
    "command": _from_langgraph("Command"),
    "date": date.fromisoformat,
    "datetime": datetime.fromisoformat,
    "decimal": Decimal,
    "frozenset": frozenset,
    "graph_output": _from_langgraph("GraphOutput"),
    "interrupt": _from_langgraph("Interrupt"),
    "overwrite": _from_langgraph("Overwrite"),
    "remove_message": lambda value: RemoveMessage(**value),
    "send": _from_langgraph("Send"),
    "set": set,
    "time": time.fromisoformat,
    "timedelta": TypeAdapter(timedelta).validate_python,
    "tuple": tuple,
    "uuid": UUID,
}
_TAGGED = {"__type__", "value"}
# What a maker or a model raises when the dict only looked like its own; ArithmeticError is Decimal's.
_NO_FIT = (ValueError, TypeError, AttributeError, KeyError, ArithmeticError, ImportError)


_CHUNKS = MessageChunks()


def _plain_chunk(value: dict[str, Any], data: bytes | None = None) -> AIMessageChunk | None:
    try:
        return _CHUNKS.make(value, data)
    except _NO_FIT:
        return None


def loads(data: bytes | str) -> Any:
    """Return what a JSON text stands for.

    Args:
        data: the JSON text.

    Raises:
        ValueError: the text is no JSON, or nested too deeply.
    """
    text = data if type(data) is bytes else None
    if text is not None and (chunk := _CHUNKS.read(text)) is not None:
        return chunk
    value = orjson.loads(data)
    if type(value) is str:
        return value
    try:
        return _object(value, text) if type(value) is dict else loadd(value)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def loadd(value: Any) -> Any:
    """Return what a parsed JSON value stands for.

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
    """Return what a parsed JSON value stands for, when some of its types came beside it.

    Args:
        value: dicts, lists and scalars as a JSON parser makes them.
        types: JSON pointer -> name of the type.
        pointer: where in the whole the value stands.
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
            return AIMessageChunk(**value)  # nearly every token is one, and validation would only call this
        if model is not None:
            return model.model_validate(value)
        if value.keys() == _TAGGED and value["__type__"] in MAKERS:
            return MAKERS[value["__type__"]](value["value"])
    except _NO_FIT:
        return value
    return value
