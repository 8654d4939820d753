"""Parse JSON without loss: integers above 64 bits stay exact, and half of a UTF-16 pair stays half."""

import json
from typing import Any

import orjson


def parse(data: bytes | str, types: Any = None) -> Any:
    """Return the value of a JSON text.

    Args:
        data: the JSON text.
        types: the map of JSON pointers to types that came beside it.

    Raises:
        ValueError: the text is not JSON.
    """
    if _has_large_integers(types):
        return json.loads(data)  # orjson would make floats of them
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            return json.loads(data, parse_constant=_refuse)  # orjson refuses half of a pair
        except (ValueError, RecursionError):
            raise error from None


def parse_answer(data: bytes) -> Any:
    """Return the value of an answer, which may have its types under the key `types`; errors are those of `parse`."""
    value = parse(data)
    types = value.get("types") if isinstance(value, dict) else None
    return parse(data, types) if _has_large_integers(types) else value


def _has_large_integers(types: Any) -> bool:
    return isinstance(types, dict) and "integer" in types.values()


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
