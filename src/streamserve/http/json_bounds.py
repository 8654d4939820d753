"""The depth and size of a JSON text, measured by its bytes before any object is made.

The contents of strings do not count. A text that is no JSON is measured too: the parser refuses it afterwards.
"""

from itertools import accumulate
from typing import Literal

_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def exceeded_bound(text: bytes, depth: int, items: int) -> Literal["depth", "items"] | None:
    """Return the bound that a JSON text exceeds: "depth" of nesting, "items" (values, containers included) or None."""
    # The first count includes brackets and commas inside strings, so a text above a bound is counted without them.
    if _opened(text) <= depth and _items(text) <= items:
        return None
    bare = _without_strings(text, items)
    if bare is None or _items(bare) > items:
        return "items"
    return "depth" if _depth(bare) > depth else None


def _opened(text: bytes) -> int:
    return text.count(b"[") + text.count(b"{")


def _items(text: bytes) -> int:
    return text.count(b",") + _opened(text)


def _without_strings(text: bytes, items: int) -> bytes | None:
    """Return the text without strings, or None if it has more strings than the items can have."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    # A value may have a key beside it, and each string has two quotation marks.
    if text.count(b'"') > 4 * (items + 1):
        return None
    return b"".join(text.split(b'"')[::2])


def _depth(bare: bytes) -> int:
    return max(accumulate(_STEPS[byte] for byte in bare.translate(None, _NOT_BRACKETS)), default=0)
