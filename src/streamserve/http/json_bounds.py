"""How deep and how large a JSON text is, told from its bytes before anything is built of it.

Strings are left out. Text that is no JSON is measured as well as it goes: the parser refuses it afterwards.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Literal

_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def passed_bound(text: bytes, depth: int, items: int) -> Literal["depth", "items"] | None:
    """Which bound a JSON text passes: "depth", "items" or None.

    Args:
        text: any bytes.
        depth: levels of nesting at most.
        items: values at most, the containers among them.
    """
    # What may be too much with the strings' own brackets and commas is looked at again without them.
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
    """None if there are more strings than the items can have."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    # A value may have a key beside it, and each string two marks.
    if text.count(b'"') > 4 * (items + 1):
        return None
    return b"".join(text.split(b'"')[::2])


def _depth(bare: bytes) -> int:
    return max(accumulate(_STEPS[byte] for byte in bare.translate(None, _NOT_BRACKETS)), default=0)
