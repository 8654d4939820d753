"""The types of an input's values that its JSON does not show, as a map of JSON pointers (RFC 6901) to names.

They are sent beside the JSON, so that a server that does not know them reads the same input.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
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
    Document: "document",
}
# Classes of langgraph.types, by name: callers of chains do not need LangGraph.
GRAPH_NAMES = {"Interrupt": "interrupt", "Overwrite": "overwrite", "Send": "send"}

_PLAIN = frozenset({str, int, float, bool, type(None)})


def types_of(value: Any) -> dict[str, str]:
    """Return the types of an input's values that JSON does not show.

    Args:
        value: the input, before it is encoded.
    """
    return dict(_walk(value, ""))


def of_langgraph(value: Any) -> str | None:
    """Return the name of a value's class if it is one of langgraph.types, else None."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "langgraph.types" else None


def fields_of(value: Any) -> dict[str, Any]:
    """Return the fields of a Command, a Send or any other dataclass, as a dict for JSON.

    Args:
        value: a dataclass, or langgraph's Send.

    Raises:
        TypeError: the value is neither.
    """
    kind = of_langgraph(value)
    if kind == "Send":
        return {"node": value.node, "arg": value.arg}
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if kind == "Command":
        return {"__type__": "command", **fields, "update": _update(value.update)}
    return fields


def _update(update: Any) -> Any:
    # As in LangGraph: a model updates only the fields that were given.
    return (
        {name: getattr(update, name) for name in update.model_fields_set} if isinstance(update, BaseModel) else update
    )


def _walk(value: Any, pointer: str) -> Iterator[tuple[str, str]]:
    kind = type(value)
    if kind in _PLAIN:
        return
    if isinstance(value, RootModel):
        yield from _walk(value.root, pointer)
        return
    name = NAMES.get(kind) or GRAPH_NAMES.get(of_langgraph(value) or "")
    if isinstance(value, BaseMessage):
        name = "message"
    if name is not None:
        yield pointer, name
    for key, item in _children(value):
        yield from _walk(item, f"{pointer}/{_escaped(key)}")


def _children(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, list | tuple | set | frozenset):
        return enumerate(value)
    if isinstance(value, BaseModel):
        return _fields(value)
    if of_langgraph(value) == "Send" or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return fields_of(value).items()
    return ()


def _fields(model: BaseModel) -> Iterable[tuple[str, Any]]:
    known = type(model).model_fields
    for name, value in {**model.__dict__, **(model.__pydantic_extra__ or {})}.items():
        yield (known[name].serialization_alias if name in known else None) or name, value


def _escaped(key: Any) -> str:
    return str(key).replace("~", "~0").replace("/", "~1")
