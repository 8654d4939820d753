"""Types that JSON loses, sent beside the JSON.

A block's `types:` line (and the `types` key of an answer) maps JSON pointers (RFC 6901) to names, such as
`{"/0": "tuple", "/a/b": "dict"}`. Clients that do not know it see the same JSON as from LangServe, because the HTML
standard requires them to ignore unknown fields. `dict` marks a dict that only looks like a message or document.
"""

import dataclasses
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, get_args
from uuid import UUID

from langchain_core.messages import AIMessageChunk, BaseMessage, RemoveMessage
from langgraph.types import Command, GraphOutput, Interrupt, Overwrite, Send
from langserve.serialization import WellKnownLCObject
from pydantic import BaseModel

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
}

_PLAIN = frozenset({str, int, float, bool, type(None)})


def _tags() -> frozenset[str]:
    options = get_args(WellKnownLCObject.model_fields["root"].annotation)
    return frozenset(option.__metadata__[-1].tag for option in options)


# Values of `type` by which clients recognise LangChain's classes.
TAGS = _tags()


def types_of(value: Any) -> dict[str, str]:
    """Return the types that a value's JSON loses; empty for nearly every chunk."""
    found: dict[str, str] = {}
    _walk(value, "", found)
    return found


def _is_simple(chunk: AIMessageChunk) -> bool:
    # Fast path for nearly every token: it holds no dict that could look like a message.
    return type(chunk.content) is str and not (
        chunk.additional_kwargs or chunk.response_metadata or chunk.tool_calls or chunk.invalid_tool_calls
    )


def _walk(value: Any, pointer: str, found: dict[str, str]) -> None:
    kind = type(value)
    if kind in _PLAIN or (kind is AIMessageChunk and _is_simple(value)):
        return
    if isinstance(value, dict):
        tag = value.get("type")
        if type(tag) is str and tag in TAGS:
            found[pointer] = "dict"
    elif kind in NAMES:
        found[pointer] = NAMES[kind]
    for key, item in _children(value):
        if type(item) not in _PLAIN:  # a token's metadata has a dozen plain values
            _walk(item, f"{pointer}/{escape(key)}", found)


def _children(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, dict):
        return value.items()
    if isinstance(value, list | tuple | set | frozenset):
        return enumerate(value)
    if isinstance(value, BaseMessage):
        return [(name, item) for name, item in value.__dict__.items() if type(item) in (dict, list)]
    if isinstance(value, BaseModel):
        return value.__dict__.items()
    if isinstance(value, Send):
        return [("node", value.node), ("arg", value.arg)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return ()


def escape(key: Any) -> str:
    """Return a key as a part of a JSON pointer."""
    return str(key).replace("~", "~0").replace("/", "~1")
