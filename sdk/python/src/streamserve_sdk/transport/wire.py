"""Requests and replies as plain records: what the sans-IO parts and the drivers hand each other."""

from dataclasses import dataclass, field
from typing import NamedTuple

import httpx

JSON_HEADERS = {"Accept": "application/json", "Content-Type": "application/json"}
# Where a response of our own transport has its body, which httpx wraps in a generator of its own.
BODY = "streamserve.body"


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request to be sent.

    Args:
        method: the HTTP method.
        url: the absolute URL.
        headers: what this request adds to the client's own headers.
        content: the body.
        silence: seconds without a byte after which reading fails; None: the client's own time limit.
    """

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None
    silence: float | None = None


class Reply(NamedTuple):
    """One HTTP answer, read to its end; `body` is empty for a stream that is still to be read."""

    status: int
    headers: httpx.Headers
    body: bytes = b""
