"""Turn answers and exceptions of httpx into errors of this package."""

from collections.abc import Mapping
from typing import Any

import httpx
import orjson

from streamserve_sdk.errors import (
    BY_CODE,
    ConnectFailed,
    ConnectionBroken,
    ConnectionFailed,
    ConnectionTimeout,
    Position,
    ProtocolError,
    RequestRejected,
    RunExpired,
    RunFailed,
    RunLost,
    ServerError,
)
from streamserve_sdk.transport.wire import Reply

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
# The answers of proxies whose server does not answer.
PROXY_STATUSES = frozenset({502, 503, 504})

_TRANSPORT: tuple[tuple[type[httpx.RequestError], type[ConnectionFailed]], ...] = (
    (httpx.ConnectTimeout, ConnectFailed),
    (httpx.ConnectError, ConnectFailed),
    (httpx.TimeoutException, ConnectionTimeout),
    (httpx.NetworkError, ConnectionBroken),
    (httpx.RemoteProtocolError, ConnectionBroken),
    (httpx.DecodingError, ProtocolError),
)
_FINAL = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)


def bare_request(method: str, url: str) -> httpx.Request:
    """Return a request without headers, body and user information, safe to show in an error."""
    return httpx.Request(method, public_url(url))


def public_url(url: str) -> httpx.URL:
    """Return the URL without a name and password in it."""
    return httpx.URL(url).copy_with(username=None, password=None)


def from_transport(error: httpx.RequestError, url: str, position: Position | None = None) -> ConnectionFailed:
    """Return this package's error for an exception of httpx."""
    kind = next((ours for theirs, ours in _TRANSPORT if isinstance(error, theirs)), ConnectionFailed)
    text = str(error) or type(error).__name__
    failure = kind(f"{text} (at {public_url(url)})", position=position)
    failure.__cause__ = error
    failure.retryable = not isinstance(error, _FINAL)
    return failure


def from_answer(
    method: str, url: str, status: int, headers: Mapping[str, str], body: bytes, position: Position
) -> ServerError:
    """Return the error for an answer with an error status; its message contains the answer's text."""
    request = bare_request(method, url)
    response = httpx.Response(status, headers=_plain(headers), content=body, request=request)
    fields = _json_object(body)
    code = fields.get("code")
    hint = fields.get("retryable")
    kind = BY_CODE.get(code, RequestRejected) if isinstance(code, str) else RequestRejected
    text = f" for {response.text}" if body else ""
    return kind(
        f"{status} {response.reason_phrase} from {request.url}{text}",
        request=request,
        response=response,
        code=code if isinstance(code, str) else None,
        retryable=hint if isinstance(hint, bool) else status in RETRIED_STATUSES,
        position=_named(position, {"run_id": headers.get("run-id"), **fields}),
    )


def from_missing_run(rejection: ServerError) -> ServerError:
    """Return the error for a 404 or 410 that answered a request for a run's stream."""
    kind = RunExpired if rejection.response.status_code == httpx.codes.GONE else RunLost
    return kind(
        str(rejection),
        request=rejection.request,
        response=rejection.response,
        position=Position(rejection.run_id, rejection.last_id),
    )


def from_error_block(data: bytes, url: str, position: Position) -> ServerError:
    """Return the error in a terminal `error` block; LangServe's own blocks have no code."""
    fields = _json_object(data)
    code = fields.get("code")
    message = fields.get("message")
    status = fields.get("status_code")
    hint = fields.get("retryable")
    request = bare_request("POST", url)
    text = message if isinstance(message, str) else data.decode(errors="replace")
    kind = BY_CODE.get(code, RunFailed) if isinstance(code, str) else RunFailed
    return kind(
        text,
        request=request,
        response=httpx.Response(
            status if isinstance(status, int) and 100 <= status <= 599 else 500, text=text, request=request
        ),
        code=code if isinstance(code, str) else None,
        retryable=hint if isinstance(hint, bool) else None,
        position=_named(position, fields),
    )


def is_streamserve(reply: Reply) -> bool:
    """Return whether an answer is StreamServe's, which names a run or the code of its error."""
    return "run-id" in reply.headers or has_code(reply.body)


def has_code(body: bytes) -> bool:
    """Return whether an error is one of StreamServe's, which name their code."""
    return isinstance(_json_object(body).get("code"), str)


def run_id_in(data: bytes) -> str | None:
    """Return the run's id in a JSON object, or None."""
    run_id = _json_object(data).get("run_id")
    return run_id if isinstance(run_id, str) else None


def attempt_in(data: bytes) -> int:
    """Return the attempt's number in a JSON object; without one, return 1."""
    attempt = _json_object(data).get("attempt")
    return attempt if isinstance(attempt, int) else 1


def _named(position: Position, fields: dict[str, Any]) -> Position:
    run_id = fields.get("run_id")
    return Position(run_id, position.last_id) if isinstance(run_id, str) else position


def _plain(headers: Mapping[str, str]) -> dict[str, str]:
    """Drop the headers about the body's encoding: the body is decoded now."""
    packing = {"content-encoding", "content-length", "transfer-encoding"}
    return {name: value for name, value in headers.items() if name.lower() not in packing}


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
