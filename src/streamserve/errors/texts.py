"""Texts of exceptions and of input, as any answer, block or store can take them."""

from typing import Any


def text_of(error: BaseException) -> str:
    """Return an exception's text; empty if its class, which may be a chain's own, cannot make it."""
    try:
        return str(error)
    except BaseException:
        return ""


def printable(value: Any) -> Any:
    """Return a value without lone surrogates in its texts: they have no UTF-8."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="replace").decode()
    if isinstance(value, list | tuple):
        return [printable(item) for item in value]
    return {printable(name): printable(item) for name, item in value.items()} if isinstance(value, dict) else value
