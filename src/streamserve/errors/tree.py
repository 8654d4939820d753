"""One tree of errors, with the status and the code that a caller sees.

    ServeError                      any answer other than success
    |-- InvalidInput                422  invalid_input: the place is in `detail`
    |-- BadRequest                  400  bad_request: invalid header or parameter
    |-- Unauthenticated             401  unauthenticated: missing or invalid credential
    |-- Forbidden                   403  forbidden: the credential does not allow this
    |-- NotFound                    404  not_found
    |-- UnknownThread               404  unknown_thread: new, or another principal's
    |-- UnknownCheckpoint           404  unknown_checkpoint: the thread has no such checkpoint
    |-- ThreadBusy                  409  thread_busy: the thread has an active run
    |-- NoOutput                    409  no_output: this run has no single output
    |-- BodyTimeout                 408  body_timeout: the body came too slowly
    |-- BodyTooLarge                413  body_too_large
    |-- UnsupportedMediaType        415  unsupported_media_type: the body is not declared as plain JSON
    |-- HeadersTooLarge             431  headers_too_large
    |-- RateLimited                 429  rate_limited: the caller exceeds its rate limit
    |-- TooManyRuns                 429  too_many_runs: the caller is at its limit of active runs
    |-- Overloaded                  503  overloaded: the worker is at its limit of active runs
    |-- ContextLengthExceeded       400  context_length_exceeded: the model's context is too small
    |-- ContentFiltered             400  content_filtered: by the model's provider
    |-- UpstreamRateLimited         429  upstream_rate_limited
    |-- UpstreamAuthentication      502  upstream_authentication: the provider refuses the server's key
    |-- UpstreamRejected            502  upstream_rejected: the provider refuses the chain's request
    |-- UpstreamUnreachable         502  upstream_unreachable
    |-- UpstreamTimeout             504  upstream_timeout
    |-- UpstreamTruncated           502  upstream_truncated: the model's stream ended early
    |-- UpstreamFailed              502  upstream
    |-- Cancelled                   499  cancelled
    |-- RunTimeout                  504  timeout: the run's deadline passed
    |-- RunLost                     503  run_lost: the run's worker is gone
    |-- ShuttingDown                503  shutting_down
    |-- StoreUnavailable            503  store_unavailable
    |-- IdentityUnavailable         503  identity_unavailable: the issuer of tokens is unreachable
    |-- LogFull                     507  log_full: the run's output exceeds its limit
    |-- RunExpired                  410  run_expired: past its retention
    |-- TooManyReaders              429  too_many_readers
    |-- IdempotencyConflict         422  idempotency_conflict: the key belongs to a run with another body
    |-- ChainAnswer                      an HTTPException of the chain, with its own status
    |-- InvalidOutput               500  invalid_output: the chain's output has no JSON form
    `-- Internal                    500  internal: only the log has the cause

The JSON shape of every error is `{"detail", "code", "retryable", "run_id"}`, with `detail` in FastAPI's form.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from streamserve.errors.texts import printable

__all__ = [
    "BadRequest",
    "BodyTimeout",
    "BodyTooLarge",
    "Cancelled",
    "ChainAnswer",
    "ContentFiltered",
    "ContextLengthExceeded",
    "Forbidden",
    "HeadersTooLarge",
    "IdempotencyConflict",
    "IdentityUnavailable",
    "Internal",
    "InvalidInput",
    "InvalidOutput",
    "LogFull",
    "NoOutput",
    "NotFound",
    "Overloaded",
    "RateLimited",
    "RunExpired",
    "RunLost",
    "RunTimeout",
    "ServeError",
    "ShuttingDown",
    "StoreUnavailable",
    "ThreadBusy",
    "TooManyReaders",
    "TooManyRuns",
    "Unauthenticated",
    "UnknownCheckpoint",
    "UnknownThread",
    "UnsupportedMediaType",
    "UpstreamAuthentication",
    "UpstreamFailed",
    "UpstreamRateLimited",
    "UpstreamRejected",
    "UpstreamTimeout",
    "UpstreamTruncated",
    "UpstreamUnreachable",
    "error_body",
    "http_code",
]


class ServeError(Exception):
    """An error with a status, a stable code and a message for the caller.

    Args:
        detail: text, or list of `{"loc", "msg", "type"}` for invalid input (default: the class's message).
        retry_after: seconds until another try may succeed (default: the value in the class's headers).
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    message: ClassVar[str] = "Internal Server Error"
    headers: ClassVar[dict[str, str]] = {}

    def __init__(
        self, detail: str | Sequence[dict[str, Any]] | None = None, *, retry_after: float | None = None
    ) -> None:
        self.detail = printable(detail) if detail is not None else self.message
        self.retry_after = retry_after
        super().__init__(self.detail)

    @property
    def answer_headers(self) -> dict[str, str]:
        """Return the headers of the answer."""
        if self.retry_after is None:
            return self.headers
        return {**self.headers, "Retry-After": str(max(1, math.ceil(self.retry_after)))}

    @property
    def text(self) -> str:
        """Return the detail as one line."""
        if isinstance(self.detail, str):
            return self.detail
        return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in self.detail)

    def event(self, run_id: str) -> dict[str, Any]:
        """Return the data of a terminal `error` block, which extends LangServe's."""
        later = {} if self.retry_after is None else {"retry_after": self.retry_after}
        return {
            **later,
            "status_code": self.status,
            "message": self.text,
            "code": self.code,
            "retryable": self.retryable,
            "run_id": run_id,
        }

    def body(self, run_id: str | None = None) -> dict[str, Any]:
        """Return the JSON body of the answer."""
        return error_body(self.detail, self.code, self.retryable, run_id)


class InvalidInput(ServeError):
    """The caller's input is invalid."""

    status, code, message = 422, "invalid_input", "Invalid input"


class NotFound(ServeError):
    """Nothing under this name is visible to the caller."""

    status, code, message = 404, "not_found", "Not found"


class Unauthenticated(ServeError):
    """The credential is missing or invalid."""

    status, code, message = 401, "unauthenticated", "A credential is required"
    headers: ClassVar[dict[str, str]] = {"WWW-Authenticate": "Bearer"}

    @classmethod
    def wrong(cls, detail: str) -> Self:
        """Return the error for an invalid credential (RFC 6750, section 3.1)."""
        error = cls(detail)
        error.headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}  # type: ignore[misc]
        return error


class Forbidden(ServeError):
    """The credential does not allow the request."""

    status, code, message = 403, "forbidden", "The credential does not allow this"


class UnknownThread(ServeError):
    """The caller has no thread of this name with the graph."""

    status, code, message = 404, "unknown_thread", "There is no such thread"


class UnknownCheckpoint(ServeError):
    """The thread has no checkpoint of this name."""

    status, code, message = 404, "unknown_checkpoint", "The thread has no such checkpoint"


class BadRequest(ServeError):
    """A header or parameter is invalid; the text names it."""

    status, code, message = 400, "bad_request", "Bad request"


class ThreadBusy(ServeError):
    """The thread has an active run, and the chain's strategy is to reject a second one.

    Args:
        holder: id of the active run.
    """

    status, code, retryable, message = 409, "thread_busy", True, "Another run of the thread is under way"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}

    def __init__(self, holder: str) -> None:
        super().__init__(f"{self.message}: {holder}")
        self.holder = holder

    def body(self, run_id: str | None = None) -> dict[str, Any]:
        """Return the JSON body of the answer with the id of the active run."""
        return {**super().body(run_id), "holder": self.holder}


class NoOutput(ServeError):
    """The run streams a log, events or chunks that do not add up, and so has no output in the form of /invoke."""

    status, code, message = 409, "no_output", "The run has no single output"


class BodyTimeout(ServeError):
    """The body took longer than its time limit."""

    status, code, retryable, message = 408, "body_timeout", True, "The body came too slowly"


class BodyTooLarge(ServeError):
    """The body exceeds the server's limit."""

    status, code, message = 413, "body_too_large", "The body is too large"


class UnsupportedMediaType(ServeError):
    """The body is not declared as plain JSON; a form of another site could send it without a CORS check."""

    status, code, message = 415, "unsupported_media_type", "Content-Type: application/json"
    headers: ClassVar = {"Accept-Encoding": "identity"}  # https://www.rfc-editor.org/rfc/rfc9110#section-12.5.3


class HeadersTooLarge(ServeError):
    """The request's path and headers together are too long."""

    status, code, message = 431, "headers_too_large", "The headers are too large"


class RateLimited(ServeError):
    """The caller exceeds its rate limit for a chain."""

    status, code, retryable, message = 429, "rate_limited", True, "Too many requests to this chain"


class TooManyRuns(ServeError):
    """The caller is at its limit of active runs of a chain."""

    status, code, retryable, message = 429, "too_many_runs", True, "Too many runs of this chain are under way"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class Overloaded(ServeError):
    """The worker is at its limit of active runs."""

    status, code, retryable, message = 503, "overloaded", True, "The server is at its limit of active runs"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class ContextLengthExceeded(ServeError):
    """The input is longer than the model's context."""

    status, code, message = 400, "context_length_exceeded", "The input is longer than the model's context"


class UpstreamRateLimited(ServeError):
    """The model's provider limits the rate of requests."""

    status, code, retryable = 429, "upstream_rate_limited", True
    message = "The model's provider is rate limited"


class ContentFiltered(ServeError):
    """The model's provider filtered the input or the answer."""

    status, code, message = 400, "content_filtered", "The model's provider filtered the content"


class UpstreamAuthentication(ServeError):
    """The model's provider refuses the server's own credential."""

    status, code, message = 502, "upstream_authentication", "The model's provider refuses this server"


class UpstreamRejected(ServeError):
    """The model's provider refuses the chain's request, for example an unknown model or an invalid argument."""

    status, code, message = 502, "upstream_rejected", "The model's provider refuses the request"


class UpstreamUnreachable(ServeError):
    """The model's provider is unreachable or broke the connection."""

    status, code, retryable = 502, "upstream_unreachable", True
    message = "The model's provider cannot be reached"


class UpstreamTimeout(ServeError):
    """The model's provider was silent for too long."""

    status, code, retryable = 504, "upstream_timeout", True
    message = "The model's provider took too long"


class UpstreamTruncated(ServeError):
    """The model's stream ended before its answer was complete."""

    status, code, retryable = 502, "upstream_truncated", True
    message = "The model's answer ended before it was complete"


class UpstreamFailed(ServeError):
    """The model's provider failed."""

    status, code, retryable, message = 502, "upstream", True, "The model's provider failed"


class Cancelled(ServeError):
    """The run was cancelled: by its caller, or because its last reader left."""

    # nginx's "client closed request"; a client that only knows 4xx and 5xx still treats it as an error.
    status, code, message = 499, "cancelled", "The run was cancelled"


class RunTimeout(ServeError):
    """The run's deadline passed."""

    status, code, message = 504, "timeout", "The run exceeded its time limit"


class RunLost(ServeError):
    """The run's worker is gone."""

    status, code, retryable, message = 503, "run_lost", True, "The worker of this run is gone"


class ShuttingDown(ServeError):
    """The server is shutting down."""

    status, code, retryable, message = 503, "shutting_down", True, "The server is shutting down"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "5"}


class StoreUnavailable(ServeError):
    """The store of the runs is unreachable."""

    status, code, retryable, message = 503, "store_unavailable", True, "The store of the runs cannot be reached"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "2"}


class IdentityUnavailable(ServeError):
    """The keys of the tokens' issuer cannot be fetched."""

    status, code, retryable, message = 503, "identity_unavailable", True, "The issuer of tokens cannot be reached"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "10"}


class LogFull(ServeError):
    """The run's output exceeds the server's limit of blocks or bytes for one run."""

    status, code, message = 507, "log_full", "The run's output exceeds its limit"


class RunExpired(ServeError):
    """The run is past its retention.

    Args:
        earliest: number of the first remaining block, or None without one.
        last_id: number of the run's last block.
        run_status: final status of the run.
    """

    status, code, message = 410, "run_expired", "The run is past its retention"

    def __init__(self, earliest: int | None, last_id: int, run_status: str) -> None:
        super().__init__()
        self.place = {"earliest": earliest, "last_id": last_id, "status": run_status}

    def body(self, run_id: str | None = None) -> dict[str, Any]:
        """Return the JSON body of the answer with the remains of the run."""
        return {**super().body(run_id), **self.place}


class TooManyReaders(ServeError):
    """The run is at its limit of readers."""

    status, code, retryable, message = 429, "too_many_readers", True, "The run is at its limit of readers"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class IdempotencyConflict(ServeError):
    """The Idempotency-Key belongs to a run with another body."""

    status, code = 422, "idempotency_conflict"
    message = "This Idempotency-Key was used with another body"


class ChainAnswer(ServeError):
    """An HTTPException that the chain raised: the caller gets its status, detail and headers."""

    def __init__(self, status: int, detail: Any, headers: Mapping[str, str] | None) -> None:
        given = {name.lower(): value for name, value in (headers or {}).items()}
        in_seconds = given.get("retry-after", "").isdecimal()  # else none, or a date
        super().__init__(detail, retry_after=float(given.pop("retry-after")) if in_seconds else None)
        self.status = status  # type: ignore[misc]
        self.code = http_code(status)  # type: ignore[misc]
        self.retryable = status in RETRYABLE_STATUSES  # type: ignore[misc]
        self.headers = given  # type: ignore[misc]

    @property
    def text(self) -> str:
        """Return the detail as text: itself, or its JSON."""
        return self.detail if isinstance(self.detail, str) else json.dumps(self.detail, default=str)


class InvalidOutput(ServeError):
    """The chain's output has no JSON form or does not fit its declared type."""

    status, code, message = 500, "invalid_output", "The chain's output does not fit its declared type"


class Internal(ServeError):
    """The chain failed; only the log has its exception, which may hold secrets."""


# Codes of plain HTTP answers, for example for a wrong method or an unknown path.
HTTP_CODES = {
    400: "bad_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
}

# Statuses after which another try may succeed.
RETRYABLE_STATUSES = frozenset({408, 425, 429, 502, 503, 504})


def http_code(status: int) -> str:
    """Return the code for a plain HTTP answer's status."""
    return HTTP_CODES.get(status, "invalid_input" if status == 422 else "error")


def error_body(detail: Any, code: str, retryable: bool = False, run_id: str | None = None) -> dict[str, Any]:
    """Return the JSON body of an error answer."""
    return {"detail": detail, "code": code, "retryable": retryable, "run_id": run_id}
