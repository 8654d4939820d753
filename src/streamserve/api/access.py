"""What a request has to do with runs: who asks, where they are and under which path, their keys and cursors."""

from __future__ import annotations

from typing import cast

from fastapi import Request

from streamserve.errors import BadRequest

# Who asks when no guard says it: one caller for all.
ANONYMOUS = "anonymous"
# An Idempotency-Key is a UUID or the like; more than this is not a key.
MAX_KEY_LENGTH = 255


def principal_of(request: Request) -> str:
    """Who asks, as the guard has found out (`request.state.principal`)."""
    # As `request.state` has it, which raises and catches where there is none.
    return cast(str, request.scope.get("state", {}).get("principal", ANONYMOUS))


def runs_base(request: Request, run_id: str) -> str:
    """The path of a run as the caller sees it, behind whatever proxy."""
    return f"{request.scope.get('root_path', '').rstrip('/')}/runs/{run_id}"


def idempotency_key(request: Request, path: str) -> str | None:
    """What names a run for its caller: principal, path and key together.

    Raises:
        BadRequest: the key is empty or too long.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not 0 < len(key) <= MAX_KEY_LENGTH:
        raise BadRequest(f"Idempotency-Key: 1 to {MAX_KEY_LENGTH} characters")
    return "\n".join((principal_of(request), path, str(request.path_params.get("config_hash", "")), key))


def last_event_id(request: Request) -> int | None:
    """The cursor of a reader that was here before.

    Raises:
        BadRequest: it is no number.
    """
    said = request.headers.get("Last-Event-ID")
    return None if said is None or said == "" else parse_cursor(said, "Last-Event-ID")


def parse_cursor(text: str, place: str) -> int:
    """A cursor as a number.

    Raises:
        BadRequest: it is no number, naming the place.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise BadRequest(f"{place}: a block's number, not {text[:40]!r}")
    return int(text)
