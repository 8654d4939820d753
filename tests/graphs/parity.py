"""Streams as comparable values: with their types, and with random ids and times replaced."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langgraph.types import Command, GraphOutput, Interrupt, Overwrite, Send
from pydantic import BaseModel

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]{32}\b")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00")
# The classes that keep their class on the wire; of any other class the fields arrive as a dict.
_TYPED = (BaseMessage, Document, Interrupt, Command, Send, Overwrite, GraphOutput)


def comparable(items: Sequence[Any]) -> list[Any]:
    """Return the items with the class of every value in them; the n-th new random id is `id n`."""
    ids: dict[str, str] = {}
    return [_Comparable(ids).form(item) for item in items]


def assert_same(remote: Sequence[Any], local: Sequence[Any]) -> None:
    """Fail at the first item that differs."""
    assert local, "nothing was streamed, so nothing is shown"
    pairs = zip_longest(comparable(remote), comparable(local), fillvalue="nothing")
    for number, (came, expected) in enumerate(pairs):
        assert came == expected, f"item {number} of {len(local)}"


class _Comparable:
    def __init__(self, ids: dict[str, str]) -> None:
        self._ids = ids

    def form(self, value: Any) -> Any:
        if isinstance(value, str):
            return _TIME.sub("time", _ID.sub(self._name, value))
        if isinstance(value, dict):
            # Not sorted, because the order of a state's keys and of an update's nodes must be equal, too.
            return type(value).__name__, [(self.form(key), self.form(item)) for key, item in value.items()]
        if isinstance(value, list | tuple):
            return type(value).__name__, [self.form(item) for item in value]
        fields = _fields(value)
        if fields is None:
            return type(value).__name__, value
        kind = type(value).__name__ if isinstance(value, _TYPED) else "dict"
        return kind, [(name, self.form(item)) for name, item in fields.items()]

    def _name(self, found: re.Match[str]) -> str:
        return self._ids.setdefault(found[0], f"id {len(self._ids)}")


def _fields(value: Any) -> dict[str, Any] | None:
    if isinstance(value, Send):
        return {"node": value.node, "arg": value.arg}
    if isinstance(value, BaseMessage | Document):
        return {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, BaseModel):
        return dict(value)
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None
