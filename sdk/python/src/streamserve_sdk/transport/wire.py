"""Requests and replies as plain records, which the sans-IO parts and the drivers exchange."""

from dataclasses import dataclass, field
from typing import NamedTuple

import httpx

JSON_HEADERS = {"Accept": "application/json", "Content-Type": "application/json"}
# The extension of a response with the body of this package's own transport: httpx wraps the body in a generator.
BODY = "streamserve.body"


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request.

    Args:
        method: the HTTP method.
        url: the absolute URL.
        headers: the headers that this request adds to the client's own headers.
        content: the body.
        silence: seconds without a byte after which reading fails; default: the client's own time limit.
    """

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None
    silence: float | None = None


class Reply(NamedTuple):
    """One HTTP answer; `body` is empty for a stream that is not read yet."""

    status: int
    headers: httpx.Headers
    body: bytes = b""
