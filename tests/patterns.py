"""Regular expressions that may take more than linear time, found from their text with the public `re` alone.

Two repeats without an upper bound are slow if they can share a text: nothing between them ends the first, or begins the
second. One repeat is slow if a search can begin again inside of it and what follows can fail.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

# Enough to tell classes apart.
ALPHABET = [*map(chr, range(0x180)), "\u201c", "\u201d", "\u2028", "\u4e2d"]
ANY = frozenset(ALPHABET)
_QUANTIFIER = re.compile(r"(?:([*+?])|\{(\d*)(,?)(\d*)\})([?+]?)")
_ATOM = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*+\]|\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)|.", re.DOTALL)
_OPENING = re.compile(r"\((?:\?(?:P<\w+>|<?[=!]|>|([aimsx]*)(?:-[imsx]+)?:)|(?!\?))")
_FLAGS = re.compile(r"\(\?([aimsx]+)\)")


@dataclass(frozen=True)
class Piece:
    """One part of a way through a pattern.

    Args:
        chars: characters that it can match; what stands before the match, for a check of the beginning.
        required: the way needs it.
        repeats: it has no upper bound.
        gives_back: a failure behind it can make it shorter.
        width: it takes text.
        fails: the whole match fails without it.
    """

    chars: frozenset[str]
    required: bool = True
    repeats: bool = False
    gives_back: bool = False
    width: bool = True
    fails: bool = True


Way = tuple[Piece, ...]


class _Reader:
    """Reads one pattern into its ways; what repeats or looks around is kept in `inner` as well."""

    def __init__(self, pattern: str, flags: int) -> None:
        self.text, self.at, self.inner = pattern, 0, list[Way]()
        while given := _FLAGS.match(self.text, self.at):
            flags |= _flags(given[1])
            self.at = given.end()
        self.flags = flags

    def ways(self) -> list[Way]:
        found, branch = list[Way](), [()]
        while self.at < len(self.text) and self.text[self.at] != ")":
            if self.text[self.at] == "|":
                found += branch
                branch, self.at = [()], self.at + 1
                continue
            item = self._quantified(self._item())
            branch = [(*way, *more) for way in branch for more in item]
        return found + branch

    def _item(self) -> list[Way]:
        text, at = self.text, self.at
        if text[at] == "(":
            return self._group()
        if text[at] in "^$":
            self.at += 1
            begins = frozenset("\n") if self.flags & re.MULTILINE else frozenset()
            return [(Piece(begins, width=text[at] == "^"),)] if text[at] == "^" else [(Piece(ANY, width=False),)]
        found = _ATOM.match(text, at)
        assert found, f"{text!r} at {at}"
        self.at = found.end()
        if found[0] in (r"\b", r"\B", r"\Z"):
            return [(Piece(ANY, width=False),)]
        return [(Piece(frozenset() if found[0] == r"\A" else _chars(found[0], self.flags)),)]

    def _group(self) -> list[Way]:
        opening = _OPENING.match(self.text, self.at)
        assert opening, f"{self.text!r} at {self.at}: such a group is unknown here"
        self.at, before = opening.end(), self.flags
        self.flags |= _flags(opening[1] or "")
        inside = self.ways()
        self.flags, self.at = before, self.at + 1
        if opening[0] == "(?<!" and all(len(way) == 1 for way in inside):
            return [(Piece(ANY.difference(*(way[0].chars for way in inside))),)]
        if opening[0].startswith(("(?=", "(?!", "(?<")):
            self.inner += inside
            return [(Piece(ANY, width=False),)]
        return inside

    def _quantified(self, ways: list[Way]) -> list[Way]:
        found = _QUANTIFIER.match(self.text, self.at)
        if not found or found[0] == "{,}":
            return ways
        self.at = found.end()
        sign, low, comma, high, mode = found.groups()
        least = {"*": 0, "?": 0, "+": 1}.get(sign or "", int(low or 0))
        endless = sign in ("*", "+") or (comma == "," and not high)
        if not endless and len(ways) == len(ways[0]) == 1:
            return [(replace(ways[0][0], required=least > 0, fails=least > 0),)]
        if not endless:
            more = ways if sign == "?" or high in ("0", "1") else [*ways, *_twice(ways)]
            return more if least else [(), *(tuple(replace(piece, fails=False) for piece in way) for way in more)]
        alone = all(len(way) == 1 and not way[0].repeats for way in ways)
        self.inner += [] if alone else _twice(ways)
        chars = frozenset().union(*(piece.chars for way in ways for piece in way if piece.width))
        return [(Piece(chars, least > 0, repeats=True, gives_back=mode != "+", fails=least > 0),)]


def _twice(ways: list[Way]) -> list[Way]:
    return [(*first, *second) for first in ways for second in ways]


def _flags(letters: str) -> int:
    return sum(getattr(re, letter.upper()) for letter in letters)


@cache
def _chars(atom: str, flags: int) -> frozenset[str]:
    one = re.compile(atom if len(atom) > 1 or atom == "." else re.escape(atom), flags)
    return frozenset(char for char in ALPHABET if one.fullmatch(char))


def slow_parts(pattern: str | bytes, flags: int = 0, *, searched: bool = True) -> list[str]:
    """Return the reasons for which a pattern may take more than linear time.

    Args:
        searched: the match may begin anywhere in a text.
    """
    text = pattern.decode("latin-1") if isinstance(pattern, bytes) else pattern
    reader = _Reader(text, flags & ~re.UNICODE)
    ways = reader.ways()
    assert reader.at == len(text), f"{text!r}: not read beyond {reader.at}"
    reasons = [reason for way in [*ways, *reader.inner] for reason in _shared(way)]
    return sorted({*reasons, *(reason for way in ways if searched for reason in _begun_inside(way))})


def _shared(way: Way) -> Iterator[str]:
    for index, first in enumerate(way):
        for other in range(index + 1, len(way)):
            second, between = way[other], way[index + 1 : other]
            if not (first.repeats and first.gives_back and second.repeats and first.chars & second.chars):
                continue
            if all(piece.chars & first.chars and piece.chars & second.chars for piece in between if _is_certain(piece)):
                yield "two repeats can share a text"


def _begun_inside(way: Way) -> Iterator[str]:
    for index, piece in enumerate(way):
        can_fail = any(after.fails for after in way[index + 1 :])
        before = [other for other in way[:index] if _is_certain(other)]
        if piece.repeats and can_fail and all(other.chars & piece.chars for other in before):
            yield "a search can begin again inside of a repeat"


def _is_certain(piece: Piece) -> bool:
    return piece.required and piece.width
