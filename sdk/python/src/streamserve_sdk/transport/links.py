"""The URLs of a chain's endpoints, of the runs beside it, and of one run."""

from contextlib import suppress
from urllib.parse import quote, urlsplit

import httpx


def endpoint(url: str, name: str) -> str:
    """Return the URL of a chain's endpoint, for example `stream`."""
    parts = urlsplit(url)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl()


def runs_beside(url: str) -> str:
    """Return the URL of a chain's runs: `runs` in place of the last segment of the chain's path."""
    parts = urlsplit(url)
    parent = parts.path.rstrip("/").rpartition("/")[0]
    return parts._replace(path=f"{parent}/runs", query="", fragment="").geturl()


def run_url(runs_url: str, run_id: str, suffix: str = "") -> str:
    """Return the URL of a run, or of a path below it."""
    return f"{runs_url.rstrip('/')}/{quote(run_id, safe='')}{suffix}"


def with_wait(url: str, seconds: float) -> str:
    """Return a URL with the seconds that the server may wait before it answers."""
    return str(httpx.URL(url).copy_set_param("wait", f"{seconds:.3g}"))


def from_cursor(url: str, last_id: int, *, joins: bool) -> tuple[str, dict[str, str]]:
    """Return the URL and the headers of a request for the blocks after a cursor.

    Args:
        url: the URL of the run's stream or blocks.
        last_id: the cursor.
        joins: whether the chunk at the cursor is unknown, so that the next one must come whole.
    """
    if joins:
        return str(httpx.URL(url).copy_set_param("after", str(last_id))), {}
    return url, {"Last-Event-ID": str(last_id)}


def stream_url(requested: str, location: str | None, runs_url: str, run_id: str) -> str:
    """Return the URL of a run's stream.

    Credentials go to the configured origin only, so a location at another origin is not followed.

    Args:
        requested: the URL that was requested.
        location: the `Location` header of the answer.
        runs_url: the URL of the runs.
        run_id: the run's id.
    """
    base = httpx.URL(requested)
    with suppress(httpx.InvalidURL):
        target = base.join(location or "")
        if location and origin(target) == origin(base):
            return str(target.copy_with(userinfo=base.userinfo))
    return run_url(runs_url, run_id, "/stream")


def origin(url: httpx.URL) -> tuple[str, str, int | None]:
    """Return scheme, host and port, with the scheme's own port filled in."""
    default = {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host, url.port or default
