"""Support for the tests of runs: a client that reads block by block, and an endless model server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any

import httpx
import pytest
from fastapi import Request
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langgraph.pregel import Pregel

from streamserve import Chain
from streamserve.api.response import StreamResponse
from streamserve.app import create_app
from streamserve.runs.runs import Runs
from streamserve.settings import Settings
from tests.fakes import Gate, registry_of
from tests.limits import LIMIT
from tests.servers import serving

PACE = 0.02


def app_of(chains: dict[str, Any], guard: Any = None, **settings: Any) -> Any:
    """Return an application of runnables or Chain records that take any input."""
    records = {name: made if isinstance(made, Chain) else _chain(made) for name, made in chains.items()}
    return create_app(registry_of(records), Settings(**settings), guard=guard)


def _chain(runnable: Any) -> Chain:
    types: dict[str, Any] = {} if isinstance(runnable, Pregel) else {"input_type": Any, "output_type": Any}
    return Chain(runnable=runnable, **types)


def caller(request: Request) -> None:
    """Set the principal to the caller's own claim."""
    request.state.principal = request.headers.get("X-Caller", "nobody")


@contextmanager
def client_of(app: Any) -> Iterator[httpx.Client]:
    """Yield a client of an application on a real socket."""
    with serving(app) as url, httpx.Client(base_url=url, timeout=LIMIT) as client:
        yield client


class GatedBench:
    """Chains that wait for a gate, and their application."""

    app: Any

    def __init__(self) -> None:
        self.gate = Gate()

    def let_all_end(self) -> None:
        """Let every chain end: the server waits for its runs before it ends."""
        self.gate.open(50)


@pytest.fixture(name="client")
def client_of_bench(bench: GatedBench) -> Iterator[httpx.Client]:
    """Yield a client of the application of the test's own fixture `bench`."""
    with client_of(bench.app) as client:
        yield client
        bench.let_all_end()


def writes_of(runs: Runs, run_id: str) -> list[bytes]:
    """Return the writes of an ended run's response to the server."""
    bodies: list[bytes] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        bodies.append(message.get("body", b""))

    asyncio.run(StreamResponse(runs, run_id, 0, "/r")({"type": "http"}, receive, send))  # type: ignore[arg-type]
    return [body for body in bodies if body]


class BlockReader:
    """A reader of an open event stream, block by block."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.comments = 0
        self._parts = response.iter_raw()
        self._buffer = b""

    @property
    def run_id(self) -> str:
        return self.response.headers["Run-Id"]

    def next(self) -> bytes:
        """Return the next whole block without comments; b"" at the end of the stream."""
        while b"\n\n" not in self._buffer:
            part = next(self._parts, None)
            if part is None:
                assert not self._without_comments(self._buffer), self._buffer
                return b""
            self._buffer += part
        block, _, self._buffer = self._buffer.partition(b"\n\n")
        return self._without_comments(block) + b"\n\n"

    def rest(self) -> list[bytes]:
        """Return all blocks to the end."""
        return list(iter(self.next, b""))

    def until(self, text: bytes) -> bytes:
        """Return the first block with this text."""
        while (block := self.next()) and text not in block:
            pass
        assert block, f"no block with {text!r}"
        return block

    def _without_comments(self, block: bytes) -> bytes:
        lines = block.split(b"\n")
        kept = [line for line in lines if not line.startswith(b":")]
        self.comments += len(lines) - len(kept)
        return b"\n".join(kept)


@contextmanager
def streaming(
    client: httpx.Client, path: str, input: Any = "x", method: str = "POST", **headers: str
) -> Iterator[BlockReader]:
    """Yield the reader of an open stream."""
    body = {"json": {"input": input}} if method == "POST" else {}
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    with client.stream(method, path, headers=names, **body) as response:  # type: ignore[arg-type]
        assert response.status_code == 200, response.read()
        yield BlockReader(response)


def blocks_of(client: httpx.Client, path: str, **headers: str) -> list[bytes]:
    """Return all blocks of a stream that is read by GET."""
    with streaming(client, path, method="GET", **headers) as reader:
        return reader.rest()


def error_of(block: bytes) -> dict[str, Any]:
    """Return the data of a terminal error block."""
    assert b"event: error\n" in block, block
    found: dict[str, Any] = json.loads(block.partition(b"data: ")[2])
    return found


def ended(client: httpx.Client, run_id: str) -> dict[str, Any]:
    """Return the state of a run once it has ended."""
    client.get(f"/runs/{run_id}/output", params={"wait": LIMIT})
    state: dict[str, Any] = client.get(f"/runs/{run_id}").json()
    assert state["ended_at"], state
    return state


class EndlessUpstream:
    """An OpenAI-compatible model server with an endless stream, and the arrivals and departures of its clients."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.opened: Queue[str] = Queue()
        self.closed: Queue[str] = Queue()

    def was_opened(self) -> None:
        """Wait for a client."""
        self.opened.get(timeout=LIMIT)

    def was_closed(self) -> None:
        """Wait until a client has left."""
        self.closed.get(timeout=LIMIT)


@contextmanager
def endless_upstream() -> Iterator[EndlessUpstream]:
    """Run an endless model server on a free port."""
    stop = threading.Event()
    chunk = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": "token "}, "finish_reason": None}],
    }
    line = f"data: {json.dumps(chunk)}\n\n".encode()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.close_connection = True
            upstream.opened.put(self.path)
            try:
                while not stop.wait(PACE):
                    self.wfile.write(line)
            except OSError:
                upstream.closed.put(self.path)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        upstream = EndlessUpstream(f"http://127.0.0.1:{server.server_port}/v1")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield upstream
        finally:
            stop.set()
            server.shutdown()
            thread.join()


def _chunk(line: str) -> ChatGenerationChunk:
    text = json.loads(line.removeprefix("data: "))["choices"][0]["delta"]["content"]
    return ChatGenerationChunk(message=AIMessageChunk(content=text))


class HttpModel(BaseChatModel):
    """A chat model over HTTP whose stream is sync only."""

    url: str

    @property
    def _llm_type(self) -> str:
        return "http"

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Iterator[Any]:
        with httpx.Client(timeout=LIMIT) as client, client.stream("POST", self.url) as response:
            for line in response.iter_lines():
                if line:
                    chunk = _chunk(line)
                    if run_manager:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))


class AsyncHttpModel(HttpModel):
    """A chat model over HTTP with an async stream."""

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        async with httpx.AsyncClient(timeout=LIMIT) as client, client.stream("POST", self.url) as response:
            async for line in response.aiter_lines():
                if line:
                    yield _chunk(line)

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        from langchain_core.language_models.chat_models import agenerate_from_stream

        return await agenerate_from_stream(self._astream(messages, stop, run_manager, **kwargs))
