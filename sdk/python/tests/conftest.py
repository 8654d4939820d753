"""A server that follows a script, a stock LangServe server, and a reader that streams in two ways."""

import asyncio
import itertools
import socket
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.runnables.utils import AddableDict
from streamserve_sdk import RemoteRunnable, RetryPolicy

CUT, HOLD = object(), object()
FAST = RetryPolicy(budget=3, first=0.001, longest=0.001)
LIMIT = 60.0


@dataclass
class Received:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    peer: int = 0


@dataclass
class ScriptedServer:
    """A server that answers the n-th request with the n-th answer: parts to send, `CUT` to abort, `HOLD` to wait."""

    answers: list[list[Any]]
    received: list[Received] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)
    answers_cancels: bool = True
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/joke"

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        server = await asyncio.start_server(self.connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while await self.exchange(reader, writer):
                pass
        writer.transport.abort()

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        peer = writer.get_extra_info("peername")[1]
        if path.endswith("/cancel") or "/cancel?" in path:
            self.received.append(Received(method, path, headers, body, peer))
            if not self.answers_cancels:
                await reader.read(1)
                return False
            writer.write(b'HTTP/1.1 202 Accepted\r\ncontent-length: 20\r\n\r\n{"status":"running"}')
            await writer.drain()
            self.cancelled.set()
            return True
        self.received.append(Received(method, path, headers, body, peer))
        for part in self.answers.pop(0):
            if part is CUT:
                return False
            if part is HOLD:
                await reader.read(1)
                self.left.set()
                return False
            writer.write(part)
            await writer.drain()
        return True


def head(status: int = 200, **headers: str) -> bytes:
    fields = {"content-type": "text/event-stream", "transfer-encoding": "chunked"} if status == 200 else {}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def run_head(run_id: str = "r1", **headers: str) -> bytes:
    return head(run_id=run_id, location=f"/runs/{run_id}/stream", **headers)


def plain(status: int, body: str = "", **headers: str) -> list[Any]:
    return [head(status, content_length=str(len(body)), **headers) + body.encode()]


def sent(*blocks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(block), block) for block in blocks)


def block(number: int | None, event: str, data: str | None = None) -> bytes:
    lines = [] if number is None else [f"id: {number}"]
    lines += [f"event: {event}"] + ([] if data is None else [f"data: {data}"])
    return ("\n".join(lines) + "\n\n").encode()


EOF = b"0\r\n\r\n"


@pytest.fixture
def scripted() -> Iterator[Callable[..., ScriptedServer]]:
    stops: list[Callable[[], None]] = []

    def start(*answers: list[Any]) -> ScriptedServer:
        server, ready = ScriptedServer(list(answers)), threading.Event()
        loops: list[Any] = []

        async def main() -> None:
            stop = asyncio.Event()
            loops.append((asyncio.get_running_loop(), stop))
            await server.serve(ready, stop)

        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        assert ready.wait(LIMIT)

        def end() -> None:
            loops[0][0].call_soon_threadsafe(loops[0][1].set)
            thread.join(LIMIT)

        stops.append(end)
        return server

    yield start
    for end in stops:
        end()


async def _astream(remote: RemoteRunnable[Any, Any], into: list[Any], stop_after: int, **kwargs: Any) -> None:
    async with asyncio.timeout(LIMIT), remote, aclosing(remote.astream("x", **kwargs)) as chunks:
        async for chunk in chunks:
            into.append(chunk)
            if len(into) == stop_after:
                return


def _stream(remote: RemoteRunnable[Any, Any], into: list[Any], stop_after: int, **kwargs: Any) -> None:
    with remote:
        chunks = remote.stream("x", **kwargs)
        for chunk in chunks:
            into.append(chunk)
            if len(into) == stop_after:
                break
        chunks.close()


@pytest.fixture(params=["sync", "async", "aiohttp"])
def streamed(request: pytest.FixtureRequest) -> Callable[..., list[Any]]:
    """Read a stream to its end, or to a number of chunks, by `stream` and by `astream`."""

    def stream(
        url: str, *, stop_after: int = 0, into: list[Any] | None = None, call: Any = None, **options: Any
    ) -> list[Any]:
        chunks = [] if into is None else into
        if request.param == "aiohttp":
            pytest.importorskip("httpx_aiohttp")
            options = {"transport": "aiohttp", **options}
        remote = RemoteRunnable(url, **{"retry": FAST, **options})
        if request.param == "sync":
            _stream(remote, chunks, stop_after, **(call or {}))
        else:
            asyncio.run(_astream(remote, chunks, stop_after, **(call or {})))
        return chunks

    return stream


@pytest.fixture(scope="session")
def wire() -> SimpleNamespace:
    """Return the script's vocabulary, for tests that cannot import this file."""
    names = SimpleNamespace(CUT=CUT, HOLD=HOLD, EOF=EOF, FAST=FAST, LIMIT=LIMIT)
    names.__dict__.update(block=block, sent=sent, head=head, run_head=run_head, plain=plain)
    return names


def stock_app() -> Any:
    """Return a stock LangServe application with fake chains."""
    from fastapi import FastAPI
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.runnables import RunnableGenerator, RunnableLambda
    from langserve import add_routes

    message = AIMessage("hello big world", id="m", tool_calls=[{"name": "t", "args": {"a": 1}, "id": "c"}])
    model = GenericFakeChatModel(messages=itertools.cycle([message]))
    app = FastAPI()
    texts: dict[str, Any] = {"input_type": str, "output_type": str}
    add_routes(app, RunnableGenerator(words).with_types(**texts), path="/words", include_callback_events=True)
    add_routes(app, RunnableGenerator(growing).with_types(input_type=str), path="/dicts")
    add_routes(app, RunnableGenerator(failing).with_types(**texts), path="/failing")
    add_routes(app, RunnableLambda(odd).with_types(**texts), path="/odd")
    add_routes(app, ChatPromptTemplate.from_template("{topic}") | model, path="/chat")
    return app


async def words(values: AsyncIterator[str]) -> AsyncIterator[str]:
    async for value in values:
        for word in ["one ", "two ", value]:
            yield word


async def growing(values: AsyncIterator[str]) -> AsyncIterator[Any]:
    async for _ in values:
        for word in ["a", "b"]:
            yield AddableDict(text=word, docs=[Document(word, metadata={"n": 1})])


async def failing(values: AsyncIterator[str]) -> AsyncIterator[str]:
    async for _ in values:
        yield "half"
        raise RuntimeError("secret")


def odd(value: str) -> str:
    if value == "bad":
        raise ValueError("bad")
    return value.upper()


@pytest.fixture(scope="session")
def stock() -> Iterator[str]:
    """Yield the URL of a stock LangServe server."""
    import uvicorn

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from langserve itself
        app = stock_app()
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(LIMIT)
    listener.close()
