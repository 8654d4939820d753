"""The place of what does not fit in a request's input."""

from __future__ import annotations

from typing import Any

from streamserve.errors.tree import InvalidInput

Place = tuple[str | int, ...]


def invalid(place: Place, message: str, kind: str) -> InvalidInput:
    """The error for one place of the input."""
    return InvalidInput([entry(place, message, kind)])


def entry(place: Place, message: str, kind: str) -> dict[str, Any]:
    """One place of the input that does not fit, as FastAPI's clients expect it."""
    return {"loc": list(place), "msg": message, "type": kind}
