"""A redirect to another origin carries no credential of the caller; one within the server's origin carries them all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from streamserve_sdk import RemoteRunnable
from streamserve_sdk.transport.redirects import OwnOrigins

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince211")
SECRETS = {"authorization", "x-api-key", "x-own", "cookie"}


@contextmanager
def answering(location: str = "") -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Serve one output, or a redirect of every path below /moved; yield the address and the headers that arrived."""
    seen: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append({name.lower(): value for name, value in self.headers.items()})
            moved = self.path.startswith("/moved")
            body = b"" if moved else b'{"output": "here", "callback_events": [], "metadata": {"run_id": "1"}}'
            self.send_response(307 if moved else 200)
            if moved:
                self.send_header("Location", f"{location}{self.path.removeprefix('/moved')}")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", seen
        finally:
            server.shutdown()


def remote_at(url: str) -> RemoteRunnable:
    return RemoteRunnable(
        f"{url}/moved/chain",
        headers={"Authorization": "Bearer a", "X-API-Key": "b", "X-Own": "c"},
        cookies={"session": "d"},
        client_kwargs={"follow_redirects": True, "trust_env": False},
    )


async def call(remote: RemoteRunnable, way: str) -> Any:
    try:
        return remote.invoke("x") if way == "invoke" else await remote.ainvoke("x")
    finally:
        await remote.aclose()


ways = pytest.mark.parametrize("way", ["invoke", "ainvoke"])


@ways
async def test_another_origin_gets_no_credentials(way: str) -> None:
    with answering() as (other, there), answering(other) as (url, here):
        assert await call(remote_at(url), way) == "here"
    assert set(here[0]) >= SECRETS
    assert not SECRETS & set(there[0])
    assert there[0]["content-type"] == "application/json"


@ways
async def test_the_same_origin_gets_the_credentials(way: str) -> None:
    with answering() as (url, here):
        assert await call(remote_at(url), way) == "here"
    assert [set(seen) >= SECRETS for seen in here] == [True, True]


@pytest.mark.parametrize(
    ("own", "url", "kept"),
    [
        ("http://here", "http://here/x", True),
        ("http://here", "http://here:80/x", True),
        ("http://here", "https://here/x", True),  # the usual upgrade
        ("http://here", "https://here:8443/x", False),
        ("http://here", "http://here:443/x", False),
        ("http://here", "http://here:8080/x", False),
        ("http://here", "http://there/x", False),
        ("http://here", "https://there/x", False),
        ("http://here:8080", "https://here/x", False),
        ("https://here:80", "https://here/x", False),
        ("https://here", "http://here/x", False),
        ("https://here", "https://here:443/x", True),
    ],
)
def test_only_an_upgrade_to_tls_counts_as_the_same_origin(own: str, url: str, kept: bool) -> None:
    options = OwnOrigins([f"{own}/chain"]).watched({}, asynchronous=False)
    request = httpx.Request("POST", url, headers={"X-API-Key": "b"})
    for hook in options["event_hooks"]["request"]:
        hook(request)
    assert ("x-api-key" in request.headers) is kept
