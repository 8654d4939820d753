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
    """Return the value of an answer, or of a list of answers, with types under the key `types`.

    Errors are those of `parse`.
    """
    value = parse(data)
    for answer in value if isinstance(value, list) else [value]:
        types = answer.get("types") if isinstance(answer, dict) else None
        if _has_large_integers(types):
            return parse(data, types)
    return value


def _has_large_integers(types: Any) -> bool:
    return isinstance(types, dict) and "integer" in types.values()


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
