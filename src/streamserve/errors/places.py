"""Places of invalid values in a request's input."""

from typing import Any

from streamserve.errors.tree import InvalidInput

Place = tuple[str | int, ...]

# Characters of a key or a message in an answer; a caller's key may have megabytes.
MAX_TEXT = 300
# Maximum places in an answer.
MAX_PLACES = 100


def invalid(place: Place, message: str, kind: str) -> InvalidInput:
    """Return the error for one place of the input."""
    return InvalidInput([entry(place, message, kind)])


def entry(place: Place, message: str, kind: str) -> dict[str, Any]:
    """Return one place of the input in the form that FastAPI's clients expect."""
    cut = [part[:MAX_TEXT] if isinstance(part, str) else part for part in place]
    return {"loc": cut, "msg": message[:MAX_TEXT], "type": kind}
