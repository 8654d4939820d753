"""A value that grows while its JSON arrives, and what changed in it since it was last asked.

The changes are operations of JSON Patch (RFC 6902) and one more: `append` adds a text at the end of a text.
"""

import json
import marshal
import re
from typing import Any, Literal, NamedTuple

NOTHING: Any = object()

# Without NaN, of which no copy equals another.
LITERALS = {name: json.loads(name) for name in ("true", "false", "null", "Infinity", "-Infinity")}
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][-+]?[0-9]++)?")


class Operation(NamedTuple):
    """One change of a value.

    Args:
        op: of JSON Patch, or `append`.
        path: the JSON pointer (RFC 6901) of the place.
        value: the value there, the text to append, or `NOTHING`.
    """

    op: Literal["add", "append", "remove", "replace"]
    path: str
    value: Any = NOTHING


class Token:
    """The text, or the number or name, that is open: its end has not arrived.

    Args:
        is_text: whether it is a text.

    Attributes:
        parts: the decoded text, or the characters of the number or name.
        is_hidden: whether an escape such as `\\u00e9` has begun at its end: as in langchain-core, the text is not there
            meanwhile.
        is_placed: whether it is in its container.
        shown: what the reader has: a number or name, or "" for a text, or `NOTHING`.
    """

    __slots__ = ("_is_rewritten", "_taken", "is_hidden", "is_placed", "is_text", "parts", "shown")

    def __init__(self, *, is_text: bool) -> None:
        self.is_text, self.is_hidden, self.is_placed = is_text, False, False
        self.parts: list[str] = []
        self.shown: Any = NOTHING
        # The parts that the reader has, and whether the last of them is another by now.
        self._taken, self._is_rewritten = 0, False

    def rewrite_last(self) -> None:
        """Take the last character away."""
        self._is_rewritten = self._is_rewritten or len(self.parts) <= self._taken
        self.parts[-1] = self.parts[-1][:-1]

    def value(self) -> Any:
        """Return the value so far, or `NOTHING` if nothing is visible."""
        if self.is_text:
            return NOTHING if self.is_hidden else "".join(self.parts)
        raw = "".join(self.parts)
        if raw in LITERALS:
            return LITERALS[raw]
        found = NUMBER.match(raw)
        return json.loads(found[0]) if found else NOTHING

    def has_changed(self) -> bool:
        """Return True if the value is not the one that the reader has."""
        now = self._mark()
        if now is NOTHING or self.shown is NOTHING:
            return now is not self.shown
        return self._is_rewritten or len(self.parts) > self._taken if self.is_text else bool(now != self.shown)

    def change(self, path: str, whole: Any = NOTHING) -> Operation | None:
        """Return the operation that leads from what the reader has to the value so far, or to the whole value."""
        now = self._mark() if whole is NOTHING else whole
        if now is NOTHING:
            return None if self.shown is NOTHING else Operation("remove", path)
        if self.shown is NOTHING:
            return Operation("add", path, self.value() if whole is NOTHING else whole)
        if not self.is_text:
            is_same = now == self.shown and type(now) is type(self.shown)
            return None if is_same else Operation("replace", path, now)
        if self._is_rewritten:
            return Operation("replace", path, "".join(self.parts))
        added = self.parts[self._taken :]
        return Operation("append", path, "".join(added)) if added else None

    def show(self) -> None:
        """Note that the reader has the value so far."""
        self.shown, self._taken, self._is_rewritten = self._mark(), len(self.parts), False

    def _mark(self) -> Any:
        """Return the value, of a text only whether it is visible: its parts tell whether it has changed."""
        if self.is_text:
            return NOTHING if self.is_hidden else ""
        return self.value()


class GrowingValue:
    """An object or array to which a reader of JSON adds."""

    def __init__(self) -> None:
        self.root: Any = NOTHING
        self.token: Token | None = None
        # The open containers, and beside each its own pointer and the key of its next value.
        self._containers: list[Any] = []
        self._pointers: list[str] = []
        self._keys: list[str] = []
        # How many of the open containers the reader has.
        self._known = 0
        self._operations: list[Operation] = []
        self._has_changed = False

    @property
    def container(self) -> Any:
        """The innermost open container, or None."""
        return self._containers[-1] if self._containers else None

    @property
    def depth(self) -> int:
        """The number of open containers."""
        return len(self._containers)

    @property
    def has_changed(self) -> bool:
        """True if the value differs from the one at the last `take`; as in Python, 1 equals 1.0."""
        return self._has_changed or (self.token is not None and self.token.has_changed())

    def take(self) -> list[Operation]:
        """Return the changes since the last call. Their values grow like this one, unless they are copied."""
        found, self._operations = self._operations, []
        if (token := self.token) is not None:
            if self._known < len(self._containers):
                self.settle()  # the container is in an operation
            elif change := token.change(self._pointer(is_placed=token.is_placed)):
                found.append(change)
            token.show()
        self._known, self._has_changed = len(self._containers), False
        return found

    def settle(self) -> None:
        """Put what is visible of the open text or number into its container."""
        if (token := self.token) is None:
            return
        value = token.value()
        if value is not NOTHING:
            self._put(value, is_placed=token.is_placed)
        elif token.is_placed:
            container = self._containers[-1]
            container.popitem() if type(container) is dict else container.pop()
        token.is_placed = value is not NOTHING

    def copy(self) -> Any:
        """Return the value so far, for the caller alone; `NOTHING` before it begins."""
        self.settle()
        return NOTHING if self.root is NOTHING else marshal.loads(marshal.dumps(self.root))  # noqa: S302  # its own dump

    def begin(self, container: Any) -> None:
        """Open a container inside the innermost one."""
        if self._containers:
            pointer = self._pointer()
            self.add(container)
        else:
            pointer, self.root, self._has_changed = "", container, True
            self._operations.append(Operation("replace", "", container))
        self._containers.append(container)
        self._pointers.append(pointer)
        self._keys.append("")

    def end(self) -> None:
        """Close the innermost container."""
        self._containers.pop()
        self._pointers.pop()
        self._keys.pop()
        self._known = min(self._known, len(self._containers))

    def name(self, key: str) -> None:
        """Set the key of the next value."""
        self._keys[-1] = key

    def add(self, value: Any) -> None:
        """Add a value to the innermost container: the whole of the open text or number, if there is one."""
        token, self.token = self.token, None
        is_placed = token is not None and token.is_placed
        if self._known == len(self._containers):
            path = self._pointer(is_placed=is_placed)
            if token is None:
                self._note(Operation("add", path, value), has_changed=True)
            elif change := token.change(path, value):
                self._note(change, has_changed=token.is_text or value != token.shown)
        self._put(value, is_placed=is_placed)

    def _note(self, operation: Operation, *, has_changed: bool) -> None:
        self._operations.append(operation)
        self._has_changed = self._has_changed or has_changed

    def _put(self, value: Any, *, is_placed: bool) -> None:
        container = self._containers[-1]
        if type(container) is dict:
            container[self._keys[-1]] = value
        elif is_placed:
            container[-1] = value
        else:
            container.append(value)

    def _pointer(self, *, is_placed: bool = False) -> str:
        """Return the pointer of the next value in the innermost container, or of the one that is placed there."""
        container = self._containers[-1]
        if type(container) is dict:
            return f"{self._pointers[-1]}/{self._keys[-1].replace('~', '~0').replace('/', '~1')}"
        return f"{self._pointers[-1]}/{len(container) - is_placed}"
