"""Places of invalid values in a request's input."""

from typing import Any

from streamserve.errors.tree import InvalidInput

Place = tuple[str | int, ...]


def invalid(place: Place, message: str, kind: str) -> InvalidInput:
    """Return the error for one place of the input."""
    return InvalidInput([entry(place, message, kind)])


def entry(place: Place, message: str, kind: str) -> dict[str, Any]:
    """Return one place of the input in the form that FastAPI's clients expect."""
    return {"loc": list(place), "msg": message, "type": kind}
