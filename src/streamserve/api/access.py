"""Access of a request to runs: its principal, paths, idempotency key and cursor."""

from typing import cast

from fastapi import Request

from streamserve.errors import BadRequest

# The principal of all callers of a server without a guard.
ANONYMOUS = "anonymous"
# Name of the runs' path in a request's scope.
BASE = "streamserve.runs"
# Maximum length of an Idempotency-Key, which is usually a UUID.
MAX_KEY_LENGTH = 255

_NO_RUN = (
    "Last-Event-ID: this request would start a new run. Continue with GET /runs/{run_id}/stream, where the id is the "
    "Run-Id header of the first answer, or send the Idempotency-Key of the first request again"
)


def principal_of(request: Request) -> str:
    """Return the principal that the guard has set in `request.state.principal`."""
    # From the scope: `request.state` would raise and catch an exception if there is no principal.
    return cast(str, request.scope.get("state", {}).get("principal", ANONYMOUS))


def runs_base(request: Request, run_id: str) -> str:
    """Return the path of a run as the caller sees it, behind any proxy."""
    return f"{request.scope[BASE]}/{run_id}"


def idempotency_key(request: Request, path: str) -> str | None:
    """Return the store's idempotency key, made of principal, path and the request's key, or None.

    Raises:
        BadRequest: The key is empty or too long; or there is none, but the request continues after a block.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None:
        # The run would be another one, and its reader would see the text twice.
        if request.headers.get("Last-Event-ID"):
            raise BadRequest(_NO_RUN)
        return None
    if not 0 < len(key) <= MAX_KEY_LENGTH:
        raise BadRequest(f"Idempotency-Key: 1 to {MAX_KEY_LENGTH} characters")
    return "\n".join((principal_of(request), path, str(request.path_params.get("config_hash", "")), key))


def last_event_id(request: Request) -> int | None:
    """Return the cursor of a reader that resumes, or None.

    Raises:
        BadRequest: The header is not a number.
    """
    text = request.headers.get("Last-Event-ID")
    return parse_cursor(text, "Last-Event-ID") if text else None


def parse_cursor(text: str, place: str) -> int:
    """Return a cursor as a number; `place` names its header or parameter in the error.

    Raises:
        BadRequest: The text is not a number.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise BadRequest(f"{place}: a block's number, not {text[:40]!r}")
    return int(text)
