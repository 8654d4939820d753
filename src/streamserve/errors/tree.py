"""One tree of errors, and how each is told to a caller.

    ServeError                      an answer other than success
    |-- InvalidInput                422  invalid_input: the place is in `detail`
    |-- BadRequest                  400  bad_request: a header or parameter does not fit
    |-- Unauthenticated             401  unauthenticated: no credential, or one that does not count
    |-- Forbidden                   403  forbidden: who asks may not do this
    |-- NotFound                    404  not_found
    |-- UnknownThread               404  unknown_thread: it has not begun, or is somebody else's
    |-- UnknownCheckpoint           404  unknown_checkpoint: the thread has no such checkpoint
    |-- ThreadBusy                  409  thread_busy: another run of the thread is under way
    |-- NoOutput                    409  no_output: this kind of run has no single output
    |-- BodyTimeout                 408  body_timeout: the body came too slowly
    |-- BodyTooLarge                413  body_too_large
    |-- UnsupportedMediaType        415  unsupported_media_type: a body that is not declared as JSON
    |-- HeadersTooLarge             431  headers_too_large
    |-- RateLimited                 429  rate_limited: the caller asks more often than it may
    |-- TooManyRuns                 429  too_many_runs: the caller has as many runs as it may
    |-- Overloaded                  503  overloaded: the worker has as many runs as it may
    |-- ContextLengthExceeded       400  context_length_exceeded: the model's context is too small
    |-- ContentFiltered             400  content_filtered: by the model's provider
    |-- UpstreamRateLimited         429  upstream_rate_limited
    |-- UpstreamAuthentication      502  upstream_authentication: the provider refuses the server's key
    |-- UpstreamRejected            502  upstream_rejected: the provider refuses what the chain asks
    |-- UpstreamUnreachable         502  upstream_unreachable
    |-- UpstreamTimeout             504  upstream_timeout
    |-- UpstreamTruncated           502  upstream_truncated: the model's stream ended early
    |-- UpstreamFailed              502  upstream
    |-- Cancelled                   499  cancelled
    |-- RunTimeout                  504  timeout: the run's deadline passed
    |-- RunLost                     503  run_lost: the run's worker is gone
    |-- ShuttingDown                503  shutting_down
    |-- StoreUnavailable            503  store_unavailable
    |-- IdentityUnavailable         503  identity_unavailable: the issuer of tokens is away
    |-- LogFull                     507  log_full: the run made more than may be kept
    |-- RunExpired                  410  run_expired: past its retention
    |-- TooManyReaders              429  too_many_readers
    |-- IdempotencyConflict         422  idempotency_conflict: the key names a run with another body
    |-- InvalidOutput               500  invalid_output: the chain made what has no JSON form
    `-- Internal                    500  internal: the cause is in the log only

The JSON shape of every error is `{"detail", "code", "retryable", "run_id"}`; `detail` as FastAPI clients expect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar


class ServeError(Exception):
    """An error with a status, a stable code and a message that may be shown.

    Args:
        detail: a text, or a list of `{"loc", "msg", "type"}` for bad input; default: the class's own text.
        retry_after: seconds after which another try may help; default: what the class's headers say.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    message: ClassVar[str] = "Internal server error"
    headers: ClassVar[dict[str, str]] = {}

    def __init__(
        self, detail: str | Sequence[dict[str, Any]] | None = None, *, retry_after: float | None = None
    ) -> None:
        self.detail = detail if detail is not None else self.message
        self.retry_after = retry_after
        super().__init__(self.detail)

    @property
    def answer_headers(self) -> dict[str, str]:
        """The headers of the answer."""
        if self.retry_after is None:
            return self.headers
        return {**self.headers, "Retry-After": str(max(1, math.ceil(self.retry_after)))}

    @property
    def text(self) -> str:
        """The detail as one line."""
        if isinstance(self.detail, str):
            return self.detail
        return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in self.detail)

    def event(self, run_id: str) -> dict[str, Any]:
        """The data of a terminal `error` block, as LangServe's clients read it and more."""
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
        """The JSON body of the answer."""
        return error_body(self.detail, self.code, self.retryable, run_id)


class InvalidInput(ServeError):
    """What the caller sent does not fit."""

    status, code, message = 422, "invalid_input", "Invalid input"


class NotFound(ServeError):
    """There is nothing under this name for this caller."""

    status, code, message = 404, "not_found", "Not found"


class Unauthenticated(ServeError):
    """There is no credential."""

    status, code, message = 401, "unauthenticated", "A credential is needed"
    headers: ClassVar[dict[str, str]] = {"WWW-Authenticate": "Bearer"}

    @classmethod
    def wrong(cls, detail: str) -> Unauthenticated:
        """The error for a credential that does not count (RFC 6750, section 3.1)."""
        error = cls(detail)
        error.headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}  # type: ignore[misc]
        return error


class Forbidden(ServeError):
    """Who asks may not do this."""

    status, code, message = 403, "forbidden", "The credential does not allow this"


class UnknownThread(ServeError):
    """The caller has begun no thread of this name with the graph."""

    status, code, message = 404, "unknown_thread", "There is no such thread"


class UnknownCheckpoint(ServeError):
    """The thread has no checkpoint of this name."""

    status, code, message = 404, "unknown_checkpoint", "The thread has no such checkpoint"


class BadRequest(ServeError):
    """A header or a parameter does not fit; the text names it."""

    status, code, message = 400, "bad_request", "Bad request"


class ThreadBusy(ServeError):
    """Another run of the thread is under way, and the chain's strategy is to reject.

    Args:
        holder: its id.
    """

    status, code, retryable, message = 409, "thread_busy", True, "Another run of the thread is under way"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}

    def __init__(self, holder: str) -> None:
        super().__init__(f"{self.message}: {holder}")
        self.holder = holder

    def body(self, run_id: str | None = None) -> dict[str, Any]:
        """The JSON body of the answer, with the run that has the thread."""
        return {**super().body(run_id), "holder": self.holder}


class NoOutput(ServeError):
    """The run streams a log or events: there is no output as /invoke gives it."""

    status, code, message = 409, "no_output", "A run of this endpoint has no single output"


class BodyTimeout(ServeError):
    """The body did not come within its time."""

    status, code, retryable, message = 408, "body_timeout", True, "The body came too slowly"


class BodyTooLarge(ServeError):
    """The body has more bytes than the server takes."""

    status, code, message = 413, "body_too_large", "The body is too large"


class UnsupportedMediaType(ServeError):
    """A body that is not declared as JSON: a form of another site can send such a one without being asked."""

    status, code, message = 415, "unsupported_media_type", "Content-Type: application/json"


class HeadersTooLarge(ServeError):
    """The request's path and headers together are too long."""

    status, code, message = 431, "headers_too_large", "The headers are too large"


class RateLimited(ServeError):
    """The caller asks a chain more often than it may."""

    status, code, retryable, message = 429, "rate_limited", True, "Too many requests to this chain"


class TooManyRuns(ServeError):
    """The caller has as many runs of a chain under way as it may."""

    status, code, retryable, message = 429, "too_many_runs", True, "Too many runs of this chain are under way"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class Overloaded(ServeError):
    """The worker has as many runs under way as it takes."""

    status, code, retryable, message = 503, "overloaded", True, "The server has as many runs as it takes"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class ContextLengthExceeded(ServeError):
    """The input is longer than the model's context."""

    status, code, message = 400, "context_length_exceeded", "The input is longer than the model's context"


class UpstreamRateLimited(ServeError):
    """The model's provider asks to slow down."""

    status, code, retryable = 429, "upstream_rate_limited", True
    message = "The model's provider is rate limited"


class ContentFiltered(ServeError):
    """The model's provider filtered the input or the answer."""

    status, code, message = 400, "content_filtered", "The model's provider filtered the content"


class UpstreamAuthentication(ServeError):
    """The model's provider refuses the server's own credential; the caller can do nothing about it."""

    status, code, message = 502, "upstream_authentication", "The model's provider refuses this server"


class UpstreamRejected(ServeError):
    """The model's provider refuses what the chain asks: an unknown model, an argument that does not fit."""

    status, code, message = 502, "upstream_rejected", "The model's provider refuses the request"


class UpstreamUnreachable(ServeError):
    """The model's provider cannot be reached, or broke the connection."""

    status, code, retryable = 502, "upstream_unreachable", True
    message = "The model's provider cannot be reached"


class UpstreamTimeout(ServeError):
    """The model's provider was silent for too long."""

    status, code, retryable = 504, "upstream_timeout", True
    message = "The model's provider took too long"


class UpstreamTruncated(ServeError):
    """The model's stream ended before its answer was whole."""

    status, code, retryable = 502, "upstream_truncated", True
    message = "The model's answer ended before it was whole"


class UpstreamFailed(ServeError):
    """The model's provider failed."""

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


class IdentityUnavailable(ServeError):
    """The keys of the tokens' issuer cannot be fetched."""

    status, code, retryable, message = 503, "identity_unavailable", True, "The issuer of tokens cannot be reached"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "10"}


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
    413: "body_too_large",
    415: "unsupported_media_type",
}


def error_body(detail: Any, code: str, retryable: bool = False, run_id: str | None = None) -> dict[str, Any]:
    """The one shape of an error answer."""
    return {"detail": detail, "code": code, "retryable": retryable, "run_id": run_id}
