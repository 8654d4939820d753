"""JSON of what orjson refuses: half an emoji, integers above 64 bits, keys such as tuples.

Half of a UTF-16 pair is escaped: `"\\ud83d"`. Python's and JavaScript's parsers read the same text.
"""

import json
from collections.abc import Callable
from math import isfinite
from typing import Any

from streamserve.errors import InvalidOutput
from streamserve.wire.types import escape


def uncommon_json(value: Any, plain: Callable[[Any], Any]) -> bytes:
    """Return a value as JSON in ASCII.

    Args:
        value: the value.
        plain: returns a simpler form of an object, or raises.

    Raises:
        InvalidOutput: a part has no JSON form, or two keys have the same; with its place, a JSON pointer.
    """
    try:
        return json.dumps(_form(value, "", plain), separators=(",", ":"), allow_nan=False).encode()
    except (RecursionError, ValueError) as error:
        reason = error if isinstance(error, _NoForm) else "nested too deeply"
        raise InvalidOutput(f"The chain's output has no JSON form: {type(value).__name__} ({reason})") from error


class _NoForm(ValueError):
    """A part that has no JSON form, with its place."""


def _form(value: Any, place: str, plain: Callable[[Any], Any]) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return _object(value, place, plain)
    if isinstance(value, list | tuple):
        return [_form(item, f"{place}/{index}", plain) for index, item in enumerate(value)]
    try:
        simpler = plain(value)
    except RecursionError:
        raise
    except Exception as error:  # a class's own code may raise anything
        raise _without_form(value, place) from error
    if type(simpler) is type(value):
        raise _without_form(value, place)
    return _form(simpler, place, plain)


def _object(value: dict[Any, Any], place: str, plain: Callable[[Any], Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, item in value.items():
        name = _key(key, place, plain)
        if name in made:
            raise _NoForm(f"two keys {name!r} at {place or '/'}")
        made[name] = _form(item, f"{place}/{escape(name)}", plain)
    return made


def _key(key: Any, place: str, plain: Callable[[Any], Any]) -> str:
    found = _form(key, place, plain)
    if isinstance(found, str):
        return str.__str__(found)  # of a text's enum, the value
    if isinstance(found, list):  # as pydantic writes a tuple
        return ",".join(_key(part, place, plain) for part in found)
    if isinstance(found, dict):
        raise _without_form(key, place)
    return json.dumps(found)


def _without_form(value: Any, place: str) -> _NoForm:
    return _NoForm(f"{type(value).__name__} at {place or '/'}")
