"""Chunks that come as patches: JSON Patch (RFC 6902), and `append`, which adds a text at the end of a text."""

import marshal
from typing import Any


class Snapshot:
    """The chunk after each patch of a stream."""

    def __init__(self) -> None:
        """Start before the first patch, which has the whole chunk."""
        self._value: Any = None

    def after(self, operations: Any) -> Any:
        """Apply the next patch, and return the chunk, which belongs to the caller.

        Args:
            operations: the parsed patch.

        Raises:
            ValueError: the patch does not fit the chunk before.
        """
        try:
            for operation in operations:
                self._apply(operation["op"], operation["path"], operation.get("value"))
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"a patch does not fit the chunk before it: {error!r}") from error
        return marshal.loads(marshal.dumps(self._value))  # noqa: S302  # its own dump

    def _apply(self, op: str, path: str, value: Any) -> None:
        if not path:
            self._value = value
            return
        *parents, last = path.split("/")[1:]
        place = self._value
        for part in parents:
            place = place[_key(place, part)]
        key = _key(place, last)
        if op == "remove":
            del place[key]
        elif op == "append":
            place[key] += value
        elif op == "add" and type(place) is list:
            place.insert(key, value)
        elif op in ("add", "replace"):
            place[key] = value
        else:
            raise ValueError(f"a patch has the unknown operation {op!r}")


def _key(place: Any, part: str) -> Any:
    return int(part) if type(place) is list else part.replace("~1", "/").replace("~0", "~")
