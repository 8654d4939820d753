"""The types of an input's values, which came beside its JSON: `"types": {"/resume/0": "datetime"}`.

The names are those of `wire_types`, and `message` and `document`: a dict of an input is never one by its looks alone.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from langchain_core.documents import Document
from langgraph.types import Interrupt, Overwrite, Send
from pydantic import TypeAdapter

from streamserve.catalog.messages import read as read_message
from streamserve.errors.places import invalid

_MAKERS: dict[str, Callable[[Any], Any]] = {
    "bytes": lambda text: b64decode(text, validate=True),
    "date": date.fromisoformat,
    "datetime": datetime.fromisoformat,
    "decimal": Decimal,
    "document": Document.model_validate,
    "frozenset": frozenset,
    "interrupt": lambda fields: Interrupt(**fields),
    "message": read_message,
    "overwrite": lambda fields: Overwrite(**fields),
    "send": lambda fields: Send(**fields),
    "set": set,
    "time": time.fromisoformat,
    "timedelta": TypeAdapter(timedelta).validate_python,
    "tuple": tuple,
    "uuid": UUID,
}


def decode_input_types(body: dict[str, Any], field: str) -> None:
    """Gives the input in a body its types, in place; what a name does not fit stays as it is.

    Args:
        body: with `types`, or without.
        field: "input" or "inputs".

    Raises:
        InvalidInput: `types` is no object of texts.
    """
    types = body.pop("types", None)
    if types is None:
        return
    if not isinstance(types, dict) or not all(map(_is_hint, types.items())):
        raise invalid(("body", "types"), "Input should be an object of JSON pointers and names of types", "dict_type")
    # The deepest first: what is in a tuple or set must be made before it.
    for pointer in sorted(types, key=lambda pointer: -pointer.count("/")):
        maker = _MAKERS.get(types[pointer])
        if maker is not None:
            _replace(body, [field, *map(_unescaped, pointer.split("/")[1:])], maker)


def _is_hint(item: tuple[Any, Any]) -> bool:
    pointer, name = item
    return (pointer == "" or pointer.startswith("/")) and isinstance(name, str)


def _replace(value: Any, path: list[str], maker: Callable[[Any], Any]) -> None:
    try:
        for key in path[:-1]:
            value = value[_key(value, key)]
        last = _key(value, path[-1])
        value[last] = maker(value[last])
    except Exception:  # noqa: S110 - a hint that does not fit is none; makers raise errors of all kinds
        pass


def _key(value: Any, key: str) -> str | int:
    return int(key) if isinstance(value, list) else key


def _unescaped(key: str) -> str:
    return key.replace("~1", "/").replace("~0", "~")
