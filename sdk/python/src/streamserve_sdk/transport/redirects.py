"""Redirects to another origin: followed if the caller wants so, but without the caller's credentials.

httpx takes only `Authorization` out of such a request, and any header or cookie may be a credential.
"""

from collections.abc import Iterable
from typing import Any

import httpx

from streamserve_sdk.transport.links import origin

# The headers that HTTP itself needs.
PLAIN = {
    *("accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type"),
    *("host", "transfer-encoding", "user-agent"),
}


class OwnOrigins:
    """The origins that get the caller's headers and cookies.

    Args:
        urls: URLs at these origins.
    """

    def __init__(self, urls: Iterable[str]) -> None:
        self._urls = tuple(urls)

    def watched(self, options: dict[str, Any], *, asynchronous: bool) -> dict[str, Any]:
        """Return options of a client whose requests are checked, redirected ones as well."""
        hooks = options.get("event_hooks") or {}
        check = self._acheck if asynchronous else self._check
        return {**options, "event_hooks": {**hooks, "request": [*hooks.get("request", ()), check]}}

    def _check(self, request: httpx.Request) -> None:
        if not any(_is_same(request.url, httpx.URL(url)) for url in self._urls):
            for name in set(request.headers) - PLAIN:
                del request.headers[name]

    async def _acheck(self, request: httpx.Request) -> None:
        self._check(request)


def _is_same(url: httpx.URL, own: httpx.URL) -> bool:
    upgraded = (url.scheme, own.scheme) == ("https", "http") and url.host == own.host
    return origin(url) == origin(own) or (upgraded and origin(url)[2] == 443 and origin(own)[2] == 80)
