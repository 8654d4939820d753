"""Helpers: a server whose chains wait for the test between tokens, and a browser page that records its requests."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any, Self
from urllib.parse import urlsplit

import uvicorn
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from playwright.sync_api import Page, Request, Response

from streamserve.app import create_app
from streamserve.catalog.chain import Chain
from streamserve.catalog.registry import BrokenModule, RegisteredChain, Registry
from streamserve.settings import Settings
from tests.limits import LIMIT


class Gate:
    """A gate that lets a chain continue by one step each time the test opens it."""

    def __init__(self) -> None:
        self._steps: asyncio.Queue[Exception | None] = asyncio.Queue()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.closed = threading.Event()

    def open(self, steps: int = 1) -> None:
        """Let `steps` more tokens pass; called from the test's OS thread."""
        for _ in range(steps):
            self._put(None)

    def fail(self, error: Exception) -> None:
        """Make the chain raise instead of its next token; called from the test's OS thread."""
        self._put(error)

    async def step(self) -> None:
        """Wait for the test; called in the chain."""
        error = await self._steps.get()
        if error:
            raise error

    def _put(self, step: Exception | None) -> None:
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self._steps.put_nowait, step)


class GatedModel(BaseChatModel):
    """A chat model whose tokens wait for the gate."""

    gate: Any
    tokens: Sequence[str]

    @property
    def _llm_type(self) -> str:
        return "gated"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        raise NotImplementedError

    async def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        try:
            for token in self.tokens:
                await self.gate.step()
                yield ChatGenerationChunk(message=AIMessageChunk(content=token))
        finally:
            self.gate.closed.set()


def registered(name: str, chain: Chain, description: str = "") -> RegisteredChain:
    """Return the registry entry of a chain."""
    return RegisteredChain(name, f"chains.{name}", __file__, chain, chain.build(), description)


def registry_of(*chains: RegisteredChain, broken: tuple[BrokenModule, ...] = ()) -> Registry:
    """Return a registry of chains that have no module."""
    return Registry({chain.name: chain for chain in chains}, broken)


def instead_of_model(chain: Chain, runnable: Any) -> Chain:
    """Return the declared chain with another runnable."""
    return dataclasses.replace(chain, runnable=runnable)


class Server:
    """A registry served on a real socket, in an OS thread of its own.

    Args:
        registry: chains to serve.
        gate: gate to give the server's event loop to.
        root_path: path under which a proxy would serve the application.
    """

    def __init__(self, registry: Registry, gate: Gate | None = None, root_path: str = "") -> None:
        self._app = create_app(registry, Settings(dev=True, drain_time=0))
        self._root_path = root_path
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(self._answer, interface="asgi3", log_level="warning", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._gate = gate
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the server and close every open connection."""
        self._server.should_exit = True
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()
        self._socket.close()

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope["root_path"] = self._root_path
        await self._app(scope, receive, send)

    async def _serve(self) -> None:
        if self._gate:
            self._gate.loop = asyncio.get_running_loop()
        await self._server.serve(sockets=[self._socket])


class Visit:
    """A browser page, with a record of its requests and of the console's errors."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.urls: list[str] = []
        self.refused: list[str] = []
        page.on("console", lambda entry: self.complaints.append(entry.text) if entry.type in _BAD else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._keep)
        page.on("response", self._keep_refusal)

    def assert_clean(self) -> None:
        """Assert that the console has no error and that no other server was asked."""
        own = urlsplit(self.page.url).netloc
        assert self.urls
        assert [url for url in self.urls if urlsplit(url).netloc not in ("", own)] == []
        assert self.refused == []
        assert self.complaints == []

    def _keep(self, request: Request) -> None:
        self.urls.append(request.url)

    def _keep_refusal(self, response: Response) -> None:
        if response.status >= 400:
            self.refused.append(f"{response.status} {response.url}")


_BAD = {"error", "warning"}
