"""A GGUF model served in this process: llama.cpp's own server, on a loopback port that only we know."""

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

# Requests that llama.cpp decodes side by side; they share one context (kv_unified), so more cost no memory.
PARALLEL_REQUESTS = 4
# llama.cpp logs every request at its default level; below zero it is silent.
QUIET = -1
# The model is loaded by then; only the first turn of the work loop is awaited.
START_TIMEOUT = 30.0


class EmbeddedServer:
    """llama.cpp's HTTP server for one model file, started by the first request.

    Args:
        path: the GGUF file.
        start: makes a server that listens from a model path and an API key; tests give their own.
    """

    # Never looked up: every request is sent to the address of the running server.
    base_url = "http://gguf.invalid/v1"

    def __init__(self, path: Path, start: Callable[[Path, str], Any] | None = None) -> None:
        self.path = path
        self.key = secrets.token_urlsafe(24)
        self._start = start or _start_llama
        self._server: Any = None
        self._lock = Lock()

    @property
    def running(self) -> bool:
        """Whether the model is loaded."""
        return self._server is not None

    def address(self) -> str:
        """The address it listens at, as `http://127.0.0.1:PORT`; loads the model if need be."""
        with self._lock:
            if self._server is None:
                self._server = self._start(self.path, self.key)
                atexit.register(self.close)
            return str(self._server.listening_address)

    def close(self) -> None:
        """Stop serving and free the model; the next request would load it again."""
        with self._lock:
            self._server = None
        atexit.unregister(self.close)

    def redirect(self, request: Any) -> None:
        """Send an httpx request to this server (an httpx event hook)."""
        parts = urlsplit(self.address())
        request.url = request.url.copy_with(host=parts.hostname, port=parts.port)

    async def aredirect(self, request: Any) -> None:
        """`redirect` for async clients: the event loop runs on while the model loads."""
        if not self.running:
            await asyncio.to_thread(self.address)
        self.redirect(request)


@cache
def embedded_server(path: Path) -> EmbeddedServer:
    """The one server of a model file in this process; nothing is loaded yet.

    Raises:
        FileNotFoundError: there is no such file.
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
    wait_until_it_works(server.listening_address, key)
    return server


def wait_until_it_works(address: str, key: str = "") -> None:
    """Let llama.cpp's work loop answer once: stopped before that loop runs, the server blocks for ever."""
    request = Request(f"{address}/slots", headers={"Authorization": f"Bearer {key}"})  # noqa: S310 -- http only
    with build_opener(ProxyHandler({})).open(request, timeout=START_TIMEOUT) as response:
        response.read()
