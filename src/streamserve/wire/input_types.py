"""Types of an input's values, sent beside its JSON: `"types": {"/resume/0": "datetime"}`.

The names are those of `wire.types`, and `message` and `document`, because no dict of an input is one by its form alone.
"""

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
    """Convert the values of a body's input to their types in place; a value that does not fit stays unchanged.

    Raises:
        InvalidInput: `types` is not an object of JSON pointers and names.
    """
    types = body.pop("types", None)
    if types is None:
        return
    if not isinstance(types, dict) or not all(map(_is_hint, types.items())):
        raise invalid(("body", "types"), "Input should be an object of JSON pointers and names of types", "dict_type")
    # Deepest first, because the items of a tuple or set must be converted before it.
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
    except Exception:  # noqa: S110 - a hint that does not fit is ignored; makers raise errors of all kinds
        pass


def _key(value: Any, key: str) -> str | int:
    return int(key) if isinstance(value, list) else key


def _unescaped(key: str) -> str:
    return key.replace("~1", "/").replace("~0", "~")
