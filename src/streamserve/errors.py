"""One tree of errors, and how each is told to a caller.

    ServeError                      an answer other than success
    |-- InvalidInput                422  invalid_input: the place is in `detail`
    |-- BadRequest                  400  bad_request: a header or parameter does not fit
    |-- NotFound                    404  not_found
    |-- NoOutput                    409  no_output: this kind of run has no single output
    |-- ContextLengthExceeded       400  context_length_exceeded: the model's context is too small
    |-- UpstreamRateLimited         429  upstream_rate_limited
    |-- UpstreamTruncated           502  upstream_truncated: the model's stream ended early
    |-- UpstreamFailed              502  upstream
    |-- Cancelled                   499  cancelled
    |-- RunTimeout                  504  timeout: the run's deadline passed
    |-- RunLost                     503  run_lost: the run's worker is gone
    |-- ShuttingDown                503  shutting_down
    |-- StoreUnavailable            503  store_unavailable
    |-- LogFull                     507  log_full: the run made more than may be kept
    |-- RunExpired                  410  run_expired: past its retention
    |-- TooManyReaders              429  too_many_readers
    |-- IdempotencyConflict         422  idempotency_conflict: the key names a run with another body
    |-- InvalidOutput               500  invalid_output: the chain made what has no JSON form
    `-- Internal                    500  internal: the cause is in the log only

The JSON shape of every error is `{"detail", "code", "retryable", "run_id"}`; `detail` as FastAPI clients expect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from langchain_core.exceptions import ContextOverflowError, ModelError, ModelRateLimitError

from streamserve import upstream


class ServeError(Exception):
    """An error with a status, a stable code and a message that may be shown.

    Args:
        detail: a text, or a list of `{"loc", "msg", "type"}` for bad input; default: the class's own text.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    message: ClassVar[str] = "Internal server error"
    headers: ClassVar[dict[str, str]] = {}

    def __init__(self, detail: str | Sequence[dict[str, Any]] | None = None) -> None:
        self.detail = detail if detail is not None else self.message
        super().__init__(self.detail)

    @property
    def text(self) -> str:
        """The detail as one line."""
        if isinstance(self.detail, str):
            return self.detail
        return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in self.detail)

    def event(self, run_id: str) -> dict[str, Any]:
        """The data of a terminal `error` block, as LangServe's clients read it and more."""
        return {
            "status_code": self.status,
            "message": self.text,
            "code": self.code,
            "retryable": self.retryable,
            "run_id": run_id,
        }

    def body(self, run_id: str | None = None) -> dict[str, Any]:
        """The JSON body of the answer."""
        return error_body(self.detail, self.code, self.retryable, run_id)


class InvalidInput(ServeError):
    """What the caller sent does not fit."""

    status, code, message = 422, "invalid_input", "Invalid input"


class NotFound(ServeError):
    """There is nothing under this name for this caller."""

    status, code, message = 404, "not_found", "Not found"


class BadRequest(ServeError):
    """A header or a parameter does not fit; the text names it."""

    status, code, message = 400, "bad_request", "Bad request"


class NoOutput(ServeError):
    """The run streams a log or events: there is no output as /invoke gives it."""

    status, code, message = 409, "no_output", "A run of this endpoint has no single output"


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


class Cancelled(ServeError):
    """The run was cancelled: by its caller, or because its last reader left."""

    # nginx's "client closed request"; a client that knows only 4xx and 5xx still sees that the answer is not whole.
    status, code, message = 499, "cancelled", "The run was cancelled"


class RunTimeout(ServeError):
    """The run's deadline passed."""

    status, code, message = 504, "timeout", "The run took longer than it may"


class RunLost(ServeError):
    """The worker that ran it is gone."""

    status, code, retryable, message = 503, "run_lost", True, "The worker of this run is gone"


class ShuttingDown(ServeError):
    """The server is shutting down."""

    status, code, retryable, message = 503, "shutting_down", True, "The server is shutting down"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "5"}


class StoreUnavailable(ServeError):
    """The store of the runs cannot be reached."""

    status, code, retryable, message = 503, "store_unavailable", True, "The store of the runs cannot be reached"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "2"}


class LogFull(ServeError):
    """The run made more blocks or bytes than the server keeps for one run."""

    status, code, message = 507, "log_full", "The run made more output than may be kept"


class RunExpired(ServeError):
    """The run is past its retention.

    Args:
        earliest: number of the first block that is still there; None if none is.
        last_id: number of its last block.
        run_status: how it ended.
    """

    status, code, message = 410, "run_expired", "The run is past its retention"

    def __init__(self, earliest: int | None, last_id: int, run_status: str) -> None:
        super().__init__()
        self.place = {"earliest": earliest, "last_id": last_id, "status": run_status}

    def body(self, run_id: str | None = None) -> dict[str, Any]:
        """The JSON body of the answer, with what is left of the run."""
        return {**super().body(run_id), **self.place}


class TooManyReaders(ServeError):
    """The run has as many readers as it may."""

    status, code, retryable, message = 429, "too_many_readers", True, "The run has as many readers as it may"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class IdempotencyConflict(ServeError):
    """The Idempotency-Key names a run that was made from another body."""

    status, code = 422, "idempotency_conflict"
    message = "This Idempotency-Key was used with another body"


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
    if type(error).__name__ == "EmptyInputError":  # LangGraph's: `null` came for a thread that has no checkpoint
        message = "There is nothing to go on from: the thread is new"
        return InvalidInput([{"loc": ["body"], "msg": message, "type": "missing"}])
    shown = _classify_upstream(error)
    return shown() if shown else Internal()


def _classify_upstream(error: BaseException) -> type[ServeError] | None:
    for kind, shown in _UPSTREAM.items():
        if isinstance(error, kind):
            return shown
    # The rest by name: importing the provider's SDK here would cost every server that does not use it.
    names = {base.__name__ for base in type(error).__mro__ if base.__module__.partition(".")[0] in _PROVIDERS}
    return UpstreamFailed if names & {"APIError", "OpenAIError", "StreamChunkTimeoutError"} else None


_PROVIDERS = {"openai", "langchain_openai"}
# The first that fits; a provider's classes inherit from these.
_UPSTREAM: dict[type[Exception], type[ServeError]] = {
    upstream.UpstreamTruncated: UpstreamTruncated,
    ContextOverflowError: ContextLengthExceeded,
    ModelRateLimitError: UpstreamRateLimited,
    ModelError: UpstreamFailed,
}
