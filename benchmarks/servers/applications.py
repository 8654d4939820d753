"""The variants to compare, each an ASGI application that answers `POST /{chain}/stream`."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from benchmarks import workload
from benchmarks.chains import table_chains
from benchmarks.workload import Order, TokenModel, order_in, tokens

Application = Callable[[Any, Any, Any], Awaitable[None]]
RUN_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
MESSAGE = {
    "content": "",
    "additional_kwargs": {},
    "response_metadata": {},
    "type": "AIMessageChunk",
    "name": None,
    "id": "lc_run--0f8fad5b-d9cb-469f-a165-70867728950e",
    "tool_calls": [],
    "invalid_tool_calls": [],
    "usage_metadata": None,
    "tool_call_chunks": [],
    "chunk_position": None,
}
# Environment variable: base URL of the model server.
UPSTREAM = "STREAMSERVE_BENCH_UPSTREAM"


def stock(more: Mapping[str, Any] | None = None) -> Application:
    """Return LangServe with its own defaults.

    Args:
        more: chains to serve beside text and messages (default none).
    """
    from fastapi import FastAPI
    from langserve import add_routes

    runnables: dict[str, Any] = {"text": workload.text_chain(), "messages": workload.messages_chain(), **(more or {})}
    if url := os.environ.get(UPSTREAM):
        from langchain_openai import ChatOpenAI

        model = ChatOpenAI(base_url=url, api_key="none", model="bench", use_responses_api=False)  # type: ignore[arg-type]
        runnables["openai"] = workload.text_chain(model)
    app = FastAPI()
    for name, runnable in runnables.items():
        add_routes(app, runnable, path=f"/{name}", input_type=workload.Question)
    return app


def ours(store: str, more: Mapping[str, Any] | None = None, **settings: Any) -> Application:
    """Return StreamServe with its runs in a store.

    Args:
        store: URL of the store.
        more: chains to serve beside text, messages and the graph (default none).
        settings: further settings.
    """
    from streamserve.app import create_app
    from streamserve.catalog.chain import Chain
    from streamserve.catalog.registry import RegisteredChain, Registry
    from streamserve.settings import Settings

    runnables: dict[str, Any] = {"text": workload.text_chain(), "messages": workload.messages_chain(), **(more or {})}
    if url := os.environ.get(UPSTREAM):
        from streamserve.models import chat_model

        os.environ |= {"OPENAI_BASE_URL": url, "STREAMSERVE_MODEL": "bench"}
        runnables["openai"] = workload.text_chain(chat_model())
    chains = {name: Chain(runnable=each, input_type=workload.Question) for name, each in runnables.items()}
    chains["graph"] = Chain(runnable=workload.graph(), input_type=workload.Conversation)
    entries = {
        name: RegisteredChain(name, f"benchmarks.{name}", f"{name}.py", chain, chain.build(), name)
        for name, chain in chains.items()
    }
    return create_app(Registry(entries), Settings(store=store, checkpoints="memory:", _env_file=None, **settings))


def starlette() -> Application:
    """Return an application that sends the blocks through Starlette's own response."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    async def stream(request: Request) -> StreamingResponse:
        content = blocks(request.path_params["chain"], order_in(await request.json()))
        return StreamingResponse(content, media_type="text/event-stream", headers=run_headers())

    return Starlette(routes=[Route("/{chain}/stream", stream, methods=["POST"])])


def raw() -> Application:
    """Return an application that sends the blocks as bare ASGI messages: the cost of the web server itself."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = await _body(receive)
        headers = {"content-type": "text/event-stream", **run_headers()}
        await send(_head(headers))
        await _send_all(receive, send, blocks(scope["path"].split("/")[1], order_in(body)))

    return app


def in_process() -> Application:
    """Return an application that runs the same streams in process, and answers only that they ended."""
    graph, model = workload.graph(), TokenModel()
    streams: dict[str, Callable[[Order], Any]] = {
        "model": lambda order: model.astream(str(order)),
        "text": lambda order: text.astream({"order": str(order)}),
        "messages": lambda order: messages.astream({"order": str(order)}),
        "graph": lambda order: graph.astream({"messages": [("human", str(order))]}, stream_mode="messages"),
    }
    text, messages = workload.text_chain(), workload.messages_chain()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        order = order_in(await _body(receive))
        async for _ in streams[scope["path"].split("/")[1]](order):
            pass
        await send(_head({"content-type": "text/plain"}))
        await send({"type": "http.response.body", "body": b"ended"})

    return app


def upstream() -> Application:
    """Return a model server of OpenAI's protocol, which is also a server that takes LangSmith's traces."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if not scope["path"].endswith("/completions"):
            await _bytes(receive)
            await send(_head({"content-type": "application/json"}))
            await send({"type": "http.response.body", "body": b"{}"})
            return
        body = await _body(receive)
        await send(_head({"content-type": "text/event-stream"}))
        await _send_all(receive, send, completions(Order.read(body["messages"][-1]["content"])))

    return app


def _of_table(serve: Callable[..., Application], *arguments: str) -> Callable[[], Application]:
    return lambda: serve(*arguments, more=table_chains())


VARIANTS: dict[str, Callable[[], Application]] = {
    "stock": stock,
    **dict.fromkeys(("langserve", "langserve traced"), _of_table(stock)),
    **dict.fromkeys(("streamserve", "streamserve traced"), _of_table(ours, "memory:")),
    "eager": lambda: ours("memory:", write_interval=0.0),
    "starlette": starlette,
    "raw": raw,
    "process": in_process,
    "upstream": upstream,
}


def application(variant: str, store: str) -> Application:
    """Return the application of a variant.

    Args:
        variant: name of the variant.
        store: URL of the store, for StreamServe.
    """
    return VARIANTS[variant]() if variant in VARIANTS else ours(store)


async def completions(order: Order) -> AsyncIterator[bytes]:
    """Yield the body that a model server of OpenAI's protocol sends."""
    async for token in tokens(order):
        yield _completion({"content": token})
    yield _completion({}, "stop") + b"data: [DONE]\n\n"


async def _send_all(receive: Any, send: Any, parts: AsyncIterator[bytes]) -> None:
    # A stream ends with its reader, or it would keep the server busy through the next measurement.
    leaving = asyncio.ensure_future(receive())
    async for part in parts:
        if leaving.done():
            return
        await send({"type": "http.response.body", "body": part, "more_body": True})
    leaving.cancel()
    await send({"type": "http.response.body", "body": b""})


async def blocks(chain: str, order: Order) -> AsyncIterator[bytes]:
    """Yield the blocks that StreamServe would send, without a chain."""
    yield b'retry: 1000\nid: 1\nevent: metadata\ndata: {"run_id":"%s"}\n\n' % RUN_ID.encode()
    frame = _frame(chain)
    number = 1
    async for token in tokens(order):
        number += 1
        yield frame % (number, token.encode())
    yield b"id: %d\nevent: end\ndata:\n\n" % (number + 1)


def run_headers() -> dict[str, str]:
    """Return the headers that tell a client its run."""
    return {"run-id": RUN_ID, "location": f"/runs/{RUN_ID}/stream"}


def _frame(chain: str) -> bytes:
    data = '"%s"' if chain == "text" else json.dumps(MESSAGE | {"content": "%s"}, separators=(",", ":"))
    return b"id: %d\nevent: data\ndata: " + data.encode() + b"\n\n"


def _completion(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    meta = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "bench"}
    return b"data: " + json.dumps(meta | {"choices": [choice]}).encode() + b"\n\n"


def _head(headers: dict[str, str]) -> dict[str, Any]:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": 200, "headers": pairs}


async def _body(receive: Any) -> Any:
    return json.loads(await _bytes(receive))


async def _bytes(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body
