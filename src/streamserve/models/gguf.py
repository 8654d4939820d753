"""A GGUF model served in this process by llama.cpp's own server, on a private loopback port."""

import asyncio
import atexit
import secrets
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

# Requests that llama.cpp decodes at the same time. They share one context (kv_unified), so more cost no memory.
PARALLEL_REQUESTS = 4
# llama.cpp logs every request at its default level and nothing below zero.
QUIET = -1
# Maximum wait for the first turn of llama.cpp's work loop, in seconds; the model is loaded before it.
START_TIMEOUT = 30.0


class EmbeddedServer:
    """llama.cpp's HTTP server for one model file, started by the first request.

    Args:
        start: factory of a listening server from a model path and an API key (default: llama.cpp's server).
    """

    # A placeholder: `redirect` sends every request to the address of the running server.
    base_url = "http://gguf.invalid/v1"

    def __init__(self, path: Path, start: Callable[[Path, str], Any] | None = None) -> None:
        self.path = path
        self.key = secrets.token_urlsafe(24)
        self._start = start or _start_llama
        self._server: Any = None
        self._lock = Lock()

    @property
    def running(self) -> bool:
        """Return whether the model is loaded."""
        return self._server is not None

    def address(self) -> str:
        """Return the server's address as `http://127.0.0.1:PORT`, after loading the model if necessary."""
        with self._lock:
            if self._server is None:
                self._server = self._start(self.path, self.key)
                atexit.register(self.close)
            return str(self._server.listening_address)

    def close(self) -> None:
        """Stop the server and free the model; the next request loads it again."""
        with self._lock:
            self._server = None
        atexit.unregister(self.close)

    def redirect(self, request: Any) -> None:
        """Send an httpx request to this server (an httpx event hook)."""
        parts = urlsplit(self.address())
        request.url = request.url.copy_with(host=parts.hostname, port=parts.port)

    async def aredirect(self, request: Any) -> None:
        """Send an async client's request to this server, without blocking the event loop while the model loads."""
        if not self.running:
            await asyncio.to_thread(self.address)
        self.redirect(request)


@cache
def embedded_server(path: Path) -> EmbeddedServer:
    """Return this process's server of a model file, without loading the model.

    Raises:
        FileNotFoundError: the file does not exist.
        ModuleNotFoundError: the extra `local` is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"STREAMSERVE_MODEL names a GGUF file that does not exist: {path}")
    if find_spec("xllamacpp") is None:
        raise ModuleNotFoundError(
            "STREAMSERVE_MODEL=gguf:PATH needs llama.cpp: pip install 'streamserve[local]'", name="xllamacpp"
        )
    return EmbeddedServer(path)


def _start_llama(path: Path, key: str) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {path.stem}
    params.api_keys = [key]
    params.n_parallel = PARALLEL_REQUESTS
    params.kv_unified = True
    params.ui = False
    params.verbosity = QUIET
    server = xllamacpp.Server(params)
    wait_until_ready(server.listening_address, key)
    return server


def wait_until_ready(address: str, key: str = "") -> None:
    """Wait for one answer of llama.cpp's work loop: a server that is stopped before that loop runs blocks forever."""
    request = Request(f"{address}/slots", headers={"Authorization": f"Bearer {key}"})  # noqa: S310 -- http only
    with build_opener(ProxyHandler({})).open(request, timeout=START_TIMEOUT) as response:
        response.read()
