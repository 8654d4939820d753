"""A real server on a real socket, for tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

STOP_LIMIT = 10.0


class _Server(uvicorn.Server):
    """A uvicorn server with an event for the moment at which it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@contextmanager
def serving(app: Any, **options: Any) -> Iterator[str]:
    """Run an ASGI application in an OS thread; yield its address, such as http://127.0.0.1:40123."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", **options)
    server = _Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        assert server.listening.wait(STOP_LIMIT), "the server did not start"
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(STOP_LIMIT)
        assert not thread.is_alive(), "the server did not stop"
