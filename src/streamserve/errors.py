"""One tree of errors, and how each is told to a caller.

    ServeError                      an answer other than success
    |-- InvalidInput                422  invalid_input: the place is in `detail`
    |-- NotFound                    404  not_found
    |-- ContextLengthExceeded       400  context_length_exceeded: the model's context is too small
    |-- UpstreamRateLimited         429  upstream_rate_limited
    |-- UpstreamTruncated           502  upstream_truncated: the model's stream ended early
    |-- UpstreamFailed              502  upstream
    |-- InvalidOutput               500  invalid_output: the chain made what has no JSON form
    `-- Internal                    500  internal: the cause is in the log only

The JSON shape of every error is `{"detail", "code", "retryable", "run_id"}`; `detail` as FastAPI clients expect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class ServeError(Exception):
    """An error with a status, a stable code and a message that may be shown.

    Args:
        detail: a text, or a list of `{"loc", "msg", "type"}` for bad input; default: the class's own text.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    message: ClassVar[str] = "Internal server error"

    def __init__(self, detail: str | Sequence[dict[str, Any]] | None = None) -> None:
        self.detail = detail if detail is not None else self.message
        super().__init__(self.detail)

    def body(self, run_id: str | None = None) -> dict[str, Any]:
        """The JSON body of the answer."""
        return error_body(self.detail, self.code, self.retryable, run_id)


class InvalidInput(ServeError):
    """What the caller sent does not fit."""

    status, code, message = 422, "invalid_input", "Invalid input"


class NotFound(ServeError):
    """There is nothing under this name for this caller."""

    status, code, message = 404, "not_found", "Not found"


class ContextLengthExceeded(ServeError):
    """The input is longer than the model's context."""

    status, code, message = 400, "context_length_exceeded", "The input is longer than the model's context"


class UpstreamRateLimited(ServeError):
    """The model's provider asks to slow down."""

    status, code, retryable = 429, "upstream_rate_limited", True
    message = "The model's provider is rate limited"


class UpstreamTruncated(ServeError):
    """The model's stream ended before its answer was whole."""

    status, code, retryable = 502, "upstream_truncated", True
    message = "The model's answer ended before it was whole"


class UpstreamFailed(ServeError):
    """The model's provider failed or could not be reached."""

    status, code, retryable, message = 502, "upstream", True, "The model's provider failed"


class InvalidOutput(ServeError):
    """The chain made a value that has no JSON form, or does not fit its declared output."""

    status, code, message = 500, "invalid_output", "The chain's output does not fit its declared type"


class Internal(ServeError):
    """The chain failed; what it said is in the log only, as it may hold secrets."""


# Codes of plain HTTP answers (wrong method, unknown path and the like).
HTTP_CODES = {
    400: "bad_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
}


def error_body(detail: Any, code: str, retryable: bool = False, run_id: str | None = None) -> dict[str, Any]:
    """The one shape of an error answer."""
    return {"detail": detail, "code": code, "retryable": retryable, "run_id": run_id}


def classify(error: BaseException) -> ServeError:
    """The error to show for an exception that a chain raised.

    Args:
        error: what was raised while the chain ran.

    Returns:
        Itself if it is a ServeError; a typed upstream error for failures of the model's provider; else Internal.
    """
    if isinstance(error, ServeError):
        return error
    upstream = _classify_upstream(error)
    return upstream() if upstream else Internal()


def _classify_upstream(error: BaseException) -> type[ServeError] | None:
    # By name: importing the provider's SDK here would cost every server that does not use it.
    names = {base.__name__ for base in type(error).__mro__ if base.__module__.split(".")[0] in _PROVIDERS}
    if "UpstreamTruncated" in names:
        return UpstreamTruncated
    if "RateLimitError" in names:
        return UpstreamRateLimited
    if names & {"ContextOverflowError"} or _is_context_overflow(error, names):
        return ContextLengthExceeded
    return UpstreamFailed if names & {"APIError", "OpenAIError"} else None


_PROVIDERS = {"openai", "langchain_core", "langchain_openai", "streamserve"}


def _is_context_overflow(error: BaseException, names: set[str]) -> bool:
    # OpenAI says code=context_length_exceeded, llama.cpp type=exceed_context_size_error.
    marks = {getattr(error, "code", None), getattr(error, "type", None)}
    return "BadRequestError" in names and bool(marks & {"context_length_exceeded", "exceed_context_size_error"})
