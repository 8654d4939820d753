"""Every error of this package, one tree.

    StreamServeError                    run_id, last_id, code, retryable
    ├── ServerError                     + httpx.HTTPStatusError: the server reported it
    │   ├── RequestRejected             the answer has an error status
    │   │   └── ThreadBusy              another run of the thread is under way
    │   ├── RunFailed                   the chain failed
    │   │   ├── UpstreamError           the model's provider failed or broke off
    │   │   │   └── UpstreamRateLimited
    │   │   ├── InvalidOutput           the chain's output cannot be encoded
    │   │   └── RunLogFull              the run wrote more than the server keeps
    │   ├── RunCancelled
    │   ├── RunTimeout                  the run's deadline passed
    │   ├── RunLost                     the server lost the run, or does not know it
    │   ├── RunExpired                  the run has ended and is no longer kept
    │   └── ServerShuttingDown
    └── ConnectionFailed                + httpx.TransportError: the stream was cut
        ├── ConnectFailed               + httpx.ConnectError, httpx.ConnectTimeout
        ├── ConnectionBroken            + httpx.ReadError, httpx.RemoteProtocolError
        ├── ConnectionTimeout           + httpx.ReadTimeout
        ├── StreamTruncated             + httpx.RemoteProtocolError: the terminal block is missing
        └── ProtocolError               + httpx.RemoteProtocolError: the answer does not follow the protocol

`except httpx.HTTPStatusError` and `except httpx.TransportError`, written for `langserve.RemoteRunnable`,
catch the same failures here. No error contains the headers of the request: they carry credentials.
"""

import copyreg
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True, slots=True)
class Position:
    """The place where a stream failed: the run's id and the sequence number of the caller's last block."""

    run_id: str | None = None
    last_id: int = 0


class StreamServeError(Exception):
    """Base of all errors of this package.

    Attributes:
        run_id: the run's id on the server, if it is known.
        last_id: the sequence number of the last block that the caller got; 0 if there was none.
        code: the server's name of the cause, for example `"timeout"`.
        retryable: whether the same call may succeed later.
    """

    code: str = "unknown"
    retryable: bool = False
    run_id: str | None = None
    last_id: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what pickle makes the error of again: its class, its text and its attributes."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]

    def _at(self, position: Position) -> None:
        self.run_id, self.last_id = position.run_id, position.last_id


class ServerError(StreamServeError, httpx.HTTPStatusError):
    """The server reported an error; `.response` has the status and the text, without the request's headers."""

    def __init__(
        self,
        message: str,
        *,
        request: httpx.Request,
        response: httpx.Response,
        code: str | None = None,
        retryable: bool | None = None,
        position: Position | None = None,
    ) -> None:
        """Describe an error that the server reported.

        Args:
            message: the text of the exception.
            request: the request, without headers and body.
            response: the response, or one made from an error block.
            code: the server's code; default: that of the class.
            retryable: whether the server calls the error retryable; default: that of the class.
            position: the place where the stream failed.
        """
        httpx.HTTPStatusError.__init__(self, message, request=request, response=response)
        self.code = type(self).code if code is None else code
        self.retryable = type(self).retryable if retryable is None else retryable
        self._at(position or Position())


class RequestRejected(ServerError):
    """The server answered a call with an error status."""

    code = "rejected"


class ThreadBusy(RequestRejected):
    """Another run of the graph's thread is under way; `.holder` is its id, if the server named it."""

    code = "thread_busy"
    retryable = True

    @property
    def holder(self) -> str | None:
        """The id of the run that holds the thread."""
        try:
            fields = self.response.json()
        except ValueError:
            return None
        return fields.get("holder") if isinstance(fields, dict) else None


class RunFailed(ServerError):
    """The chain raised an error."""

    code = "internal"


class UpstreamError(RunFailed):
    """The model's provider failed, or its answer broke off."""

    code = "upstream"
    retryable = True


class UpstreamRateLimited(UpstreamError):
    """The model's provider refused the call because of its rate limit."""

    code = "upstream_rate_limited"


class InvalidOutput(RunFailed):
    """The chain yielded a value that cannot be encoded."""

    code = "invalid_output"


class RunLogFull(RunFailed):
    """The run wrote more blocks or bytes than the server keeps."""

    code = "log_full"


class RunCancelled(ServerError):
    """The run was cancelled."""

    code = "cancelled"


class RunTimeout(ServerError):
    """The run passed its deadline."""

    code = "timeout"


class RunLost(ServerError):
    """The server that held the run is gone, or does not know the run."""

    code = "run_lost"
    retryable = True


class RunExpired(ServerError):
    """The run has ended, and the server no longer keeps it."""

    code = "run_expired"


class ServerShuttingDown(ServerError):
    """The server ended the run because it shuts down."""

    code = "shutting_down"
    retryable = True


class ConnectionFailed(StreamServeError, httpx.TransportError):
    """The connection failed and could not be resumed; `__cause__` has httpx's own error."""

    code = "connection"
    retryable = True

    def __init__(self, message: str, *, position: Position | None = None) -> None:
        """Describe a failed connection.

        Args:
            message: the text of the exception.
            position: the place where the stream failed.
        """
        httpx.TransportError.__init__(self, message)
        self._at(position or Position())


class ConnectFailed(ConnectionFailed, httpx.ConnectError, httpx.ConnectTimeout):
    """The connection could not be opened."""


class ConnectionBroken(ConnectionFailed, httpx.ReadError, httpx.RemoteProtocolError):
    """The connection broke."""


class ConnectionTimeout(ConnectionFailed, httpx.ReadTimeout):
    """The server sent nothing for too long."""


class StreamTruncated(ConnectionFailed, httpx.RemoteProtocolError):
    """The stream ended without its terminal block: the answer is incomplete."""

    code = "truncated"


class ProtocolError(ConnectionFailed, httpx.RemoteProtocolError):
    """The server sent something that does not follow the protocol."""

    code = "protocol"
    retryable = False


BY_CODE: dict[str, type[ServerError]] = {
    "cancelled": RunCancelled,
    "internal": RunFailed,
    "invalid_output": InvalidOutput,
    "log_full": RunLogFull,
    "run_expired": RunExpired,
    "run_lost": RunLost,
    "shutting_down": ServerShuttingDown,
    "thread_busy": ThreadBusy,
    "timeout": RunTimeout,
    "upstream": UpstreamError,
    "upstream_rate_limited": UpstreamRateLimited,
    "upstream_truncated": UpstreamError,
}
