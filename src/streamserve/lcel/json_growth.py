"""The value of a JSON text that arrives in pieces, in time linear in the text.

langchain-core's `parse_partial_json` parses the text so far anew for each piece. This reads each character once. It
knows valid JSON only, with control characters in texts. For any other text, and for a few valid ones, it raises
`Unusual`: the caller then asks langchain-core.
"""

import json
import re
from collections.abc import Callable

from streamserve.lcel.growing_value import LITERALS, NUMBER, GrowingValue, Token

# Containers in one another, as deep as every encoder takes them.
MAX_DEPTH = 100

_SPACE = re.compile(r"[ \t\n\r]*+")
_TEXT = re.compile(r'[^"\\]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\]*+)*+')
_ESCAPE_BEGUN = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?")
# Half of a UTF-16 pair and the escape of its other half.
_FIRST_HALF, _LAST_HALF, _LOW = "\ud800", "\udbff", re.compile(r"\\u[dD][c-fC-F]")
_SCALAR = re.compile(r"[-+.0-9A-Za-z]*+")
_NUMBER_BEGUN = re.compile(r"-?(?:(?:0|[1-9][0-9]*+)(?:\.(?:[0-9]++(?:[eE][-+]?[0-9]*+)?)?|[eE][-+]?[0-9]*+)?)?")
_BRACKETS = re.compile(r"[][{}]")


class Unusual(Exception):
    """A text whose value langchain-core is asked for."""


class JsonGrowth(GrowingValue):
    """The value of one text, an object or an array, as `parse_partial_json` sees it after each piece."""

    def __init__(self) -> None:
        super().__init__()
        self._read: Callable[[str, int], int] = self._read_root
        # The begun escape at the end of a piece, and the half of a pair before it.
        self._held, self._high = "", ""
        self._key: list[str] | None = None

    def feed(self, text: str) -> None:
        """Read the next piece.

        Raises:
            Unusual: the text is not the beginning of valid JSON, or is out of the ordinary.
            ValueError: a number has too many digits.
        """
        if self._held:
            text, self._held = self._held + text, ""
        at, length = 0, len(text)
        while at < length:
            at = self._read(text, at)
        if (token := self.token) is None:
            return
        if token.is_text:
            token.is_hidden = self._held.startswith("\\u")
        elif not _is_begun("".join(token.parts)):
            raise Unusual

    def _read_root(self, text: str, at: int) -> int:
        at = _after_space(text, at)
        if at < len(text):
            if text[at] not in "{[":
                raise Unusual
            self._open(text[at])
            at += 1
        return at

    def _read_value(self, text: str, at: int) -> int:
        at = _after_space(text, at)
        if at == len(text):
            return at
        if (found := text[at]) == '"':
            self.token, self._high, self._read = Token(is_text=True), "", self._read_text
        elif found in "{[":
            self._open(found)
        else:
            self.token, self._read = Token(is_text=False), self._read_scalar
            return self._read_scalar(text, at)
        return at + 1

    def _read_first_item(self, text: str, at: int) -> int:
        return self._unless_closed("]", self._read_value, text, at)

    def _read_first_key(self, text: str, at: int) -> int:
        return self._unless_closed("}", self._read_key, text, at)

    def _read_key(self, text: str, at: int) -> int:
        self._key, self._high = [], ""
        return self._after('"', self._read_text, text, at)

    def _read_colon(self, text: str, at: int) -> int:
        return self._after(":", self._read_value, text, at)

    def _read_after_value(self, text: str, at: int) -> int:
        if type(self.container) is dict:
            return self._unless_closed("}", self._read_comma_and_key, text, at)
        return self._unless_closed("]", self._read_comma_and_item, text, at)

    def _read_comma_and_key(self, text: str, at: int) -> int:
        return self._after(",", self._read_key, text, at)

    def _read_comma_and_item(self, text: str, at: int) -> int:
        return self._after(",", self._read_value, text, at)

    def _read_rest(self, text: str, at: int) -> int:
        # Other characters after the value change nothing.
        if _BRACKETS.search(text, at):
            raise Unusual
        return len(text)

    def _after(self, mark: str, following: Callable[[str, int], int], text: str, at: int) -> int:
        at = _after_space(text, at)
        if at < len(text):
            if text[at] != mark:
                raise Unusual
            self._read = following
            at += 1
        return at

    def _unless_closed(self, bracket: str, otherwise: Callable[[str, int], int], text: str, at: int) -> int:
        at = _after_space(text, at)
        if not text.startswith(bracket, at):
            return otherwise(text, at)
        self.end()
        self._read = self._read_after_value if self.depth else self._read_rest
        return at + 1

    def _open(self, bracket: str) -> None:
        if self.depth == MAX_DEPTH:
            raise Unusual
        self.begin({} if bracket == "{" else [])
        self._read = self._read_first_key if bracket == "{" else self._read_first_item

    def _read_text(self, text: str, at: int) -> int:
        found = _TEXT.match(text, at)
        assert found is not None
        end = found.end()
        if end > at:
            self._add_part(found[0])
        if end == len(text):
            return end
        if text[end] == '"':
            self._end_text()
            return end + 1
        if not _ESCAPE_BEGUN.fullmatch(text, end):
            raise Unusual
        self._held = text[end:]
        return len(text)

    def _add_part(self, raw: str) -> None:
        token = self.token
        parts = self._key if token is None else token.parts
        assert parts is not None
        if self._high and _LOW.match(raw):  # the two halves are one character
            raw = self._high + raw
            if token is None:
                parts[-1] = parts[-1][:-1]
            else:
                token.rewrite_last()
        escaped = "\\" in raw
        parts.append(json.loads(f'"{raw}"', strict=False) if escaped else raw)
        is_half = escaped and _FIRST_HALF <= parts[-1][-1] <= _LAST_HALF and raw[-6:-4] == "\\u"
        self._high = raw[-6:] if is_half else ""

    def _end_text(self) -> None:
        if self.token is not None:
            self.add("".join(self.token.parts))
            self._read = self._read_after_value
            return
        assert self._key is not None
        key, self._key = "".join(self._key), None
        if key in self.container:
            raise Unusual
        self.name(key)
        self._read = self._read_colon

    def _read_scalar(self, text: str, at: int) -> int:
        found, token = _SCALAR.match(text, at), self.token
        assert found is not None
        assert token is not None
        token.parts = ["".join([*token.parts, found[0]])]
        if found.end() < len(text):
            raw = token.parts[0]
            if not (raw in LITERALS or NUMBER.fullmatch(raw)):
                raise Unusual
            self.add(token.value())
            self._read = self._read_after_value
        return found.end()


def _is_begun(raw: str) -> bool:
    return bool(_NUMBER_BEGUN.fullmatch(raw)) or any(name.startswith(raw) for name in LITERALS)


def _after_space(text: str, at: int) -> int:
    if at < len(text) and text[at] not in " \t\n\r":
        return at
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()
