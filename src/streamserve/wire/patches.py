"""Chunks that are told by what changes: a JSON Patch (RFC 6902) from the chunk before to this one.

In the store, a patch may have one more operation: `append` adds a text at the end of the text at its path.
"""

import json
from typing import Any, cast

import orjson

from streamserve.lcel.growing_value import NOTHING, Operation
from streamserve.wire.serializer import split_types, to_line, typed_line
from streamserve.wire.types import types_of, types_of_chunk


def patch_line(operations: list[Operation]) -> bytes:
    """Return the data of a patch's block, with a `types:` line if it has integers above 64 bits."""
    forms = [_form(operation) for operation in operations]
    # Nearly every patch adds or appends one text, which needs no type.
    has_texts_only = all(type(operation.value) is str for operation in operations)
    return to_line(forms) if has_texts_only else typed_line(forms)


def _form(operation: Operation) -> dict[str, Any]:
    form = {"op": operation.op, "path": operation.path}
    return form if operation.value is NOTHING else {**form, "value": operation.value}


def operations_of(line: bytes) -> list[dict[str, Any]]:
    """Return the operations of a patch's data."""
    data, types = split_types(line)
    if types:  # orjson would make floats of large integers
        return cast("list[dict[str, Any]]", json.loads(data))
    try:
        return cast("list[dict[str, Any]]", orjson.loads(data))
    except orjson.JSONDecodeError:  # half of a UTF-16 pair
        return cast("list[dict[str, Any]]", json.loads(data))


class Snapshot:
    """The value of a stream of patches."""

    def __init__(self) -> None:
        self._value: Any = None
        # Whether some part may need a type beside its JSON.
        self._has_types = False

    def apply(self, operations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Apply a patch, and return it without `append`.

        Args:
            operations: those of a block in the store.
        """
        return [self._applied(operation) for operation in operations]

    def line(self) -> bytes:
        """Return the data of a block with the whole value."""
        if not self._has_types:
            line = to_line(self._value)
            return b'%s\ntypes: {"":"snapshot"}' % line if type(self._value) is dict else line
        types, line = types_of_chunk(self._value), to_line(self._value)
        return b"%s\ntypes: %s" % (line, to_line(types)) if types else line

    def patch(self) -> bytes:
        """Return the data of a block with a patch that has the whole value."""
        return patch_line([Operation("replace", "", self._value)])

    def _applied(self, operation: dict[str, Any]) -> dict[str, Any]:
        op, path, value = operation["op"], operation["path"], operation.get("value")
        self._has_types = self._has_types or path.endswith("/type") or bool(types_of(value))
        if not path:
            self._value = value
            return operation
        place, key = self._place(path)
        if op == "remove":
            del place[key]
        elif op == "append":
            place[key] += value
            return {"op": "replace", "path": path, "value": place[key]}
        elif op == "add" and type(place) is list:
            place.insert(cast(int, key), value)
        else:
            place[key] = value
        return operation

    def _place(self, path: str) -> tuple[Any, Any]:
        """Return the container of a place, and the key or index in it."""
        place = self._value
        *parents, last = path.split("/")[1:]
        for part in parents:
            place = place[_key(place, part)]
        return place, _key(place, last)


def _key(place: Any, part: str) -> Any:
    return int(part) if type(place) is list else part.replace("~1", "/").replace("~0", "~")
