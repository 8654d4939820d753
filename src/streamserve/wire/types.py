"""Types that JSON loses, sent beside the JSON.

A block's `types:` line (and the `types` key of an answer) maps JSON pointers (RFC 6901) to names, such as
`{"/0": "tuple", "/a/b": "dict"}`. Clients that do not know it see the same JSON as from LangServe, because the HTML
standard requires them to ignore unknown fields. `dict` marks a dict or object that only looks like a message or
document, `integer` one above 64 bits, which many parsers read as a float. `snapshot` marks a chunk of a stream that is
an object and replaces the chunk before it; the parts of a map, which are added up, have no mark.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, get_args
from uuid import UUID

import orjson
from langchain_core.messages import AIMessageChunk, BaseMessage, RemoveMessage
from langchain_core.prompt_values import ChatPromptValue
from langchain_core.runnables.utils import AddableDict
from langgraph.types import Command, GraphOutput, Interrupt, Overwrite, Send
from langserve.serialization import WellKnownLCObject
from pydantic import BaseModel, RootModel

NAMES: dict[type, str] = {
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
    bytes: "bytes",
    Decimal: "decimal",
    datetime: "datetime",
    date: "date",
    time: "time",
    timedelta: "timedelta",
    UUID: "uuid",
    Interrupt: "interrupt",
    Command: "command",
    Send: "send",
    Overwrite: "overwrite",
    GraphOutput: "graph_output",
    RemoveMessage: "remove_message",
    ChatPromptValue: "chat_prompt",
}

_PLAIN = frozenset({str, float, bool, type(None)})
# orjson writes and reads the integers between.
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1


def _tags() -> dict[str, type[BaseModel]]:
    options = get_args(WellKnownLCObject.model_fields["root"].annotation)
    return {option.__metadata__[-1].tag: get_args(option)[0] for option in options}


# Values of `type` by which clients recognise LangChain's classes.
TAGS = _tags()
_KNOWN = tuple(TAGS.values())
_MESSAGES = frozenset(option for option in _KNOWN if issubclass(option, BaseMessage))
_CONTAINERS = frozenset({list, dict})


def types_of(value: Any) -> dict[str, str]:
    """Return the types that a value's JSON loses; empty for nearly every chunk."""
    found: dict[str, str] = {}
    _walk(value, "", found)
    return found


def types_of_chunk(value: Any) -> dict[str, str]:
    """Return the types that the JSON of a stream's chunk loses, which may be that it is a snapshot."""
    found = types_of(value)
    if found.get("", "dict") == "dict" and _is_snapshot(value):
        found[""] = "snapshot"
    return found


def _is_snapshot(value: Any) -> bool:
    if isinstance(value, Mapping):
        return not isinstance(value, AddableDict)
    return (isinstance(value, BaseModel) or dataclasses.is_dataclass(value)) and not isinstance(value, _KNOWN)


def _is_simple(chunk: AIMessageChunk) -> bool:
    # Fast path for nearly every token: it holds no dict that could look like a message.
    return type(chunk.content) is str and not (
        chunk.additional_kwargs or chunk.response_metadata or chunk.tool_calls or chunk.invalid_tool_calls
    )


def is_bare(value: Any) -> bool:
    """Return True if a value is a message whose fields are its JSON, like thousands of messages of one request."""
    if type(value) not in _MESSAGES or value.__pydantic_extra__:
        return False
    for field in value.__dict__.values():
        if type(field) is not str and field is not None and (field or type(field) not in _CONTAINERS):
            return False
    return True


def _walk(value: Any, pointer: str, found: dict[str, str]) -> None:
    kind = type(value)
    if kind in _PLAIN or (kind is AIMessageChunk and _is_simple(value)):
        return
    if kind is int:
        if not _SMALLEST <= value <= _LARGEST:
            found[pointer] = "integer"
        return
    if isinstance(value, RootModel):
        _walk(value.root, pointer, found)
        return
    if kind in NAMES:
        found[pointer] = NAMES[kind]
    elif _looks_like_langchains(value):
        found[pointer] = "dict"
    for key, item in _children(value):
        if type(item) not in _PLAIN and not is_bare(item):  # a token's metadata has a dozen plain values
            _walk(item, f"{pointer}/{escape(key)}", found)


def _looks_like_langchains(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return False
    tag = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    if tag is None:
        return False
    tag = getattr(tag, "value", tag)  # of an enum
    return isinstance(tag, str) and tag in TAGS and not isinstance(value, TAGS[tag])


def _children(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, dict):
        return value.items()
    if isinstance(value, list | tuple | set | frozenset):
        return enumerate(value)
    if isinstance(value, BaseModel):
        return _fields(value)
    if isinstance(value, Send):
        return [("node", value.node), ("arg", value.arg)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return value.items() if isinstance(value, Mapping) else ()


def _fields(model: BaseModel) -> Iterable[tuple[str, Any]]:
    extra = model.__pydantic_extra__
    return [*model.__dict__.items(), *extra.items()] if extra else model.__dict__.items()


def escape(key: Any) -> str:
    """Return a key as a part of a JSON pointer."""
    if type(key) is int:
        return str(key)
    return (key if type(key) is str else _written(key)).replace("~", "~0").replace("/", "~1")


def _written(key: Any) -> str:
    try:
        return str(next(iter(orjson.loads(orjson.dumps({key: None}, option=orjson.OPT_NON_STR_KEYS)))))
    except TypeError:
        return str(key)
