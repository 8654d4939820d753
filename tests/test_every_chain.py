"""Both clients stream every chain over a real socket: the same chunks as the chain run in process."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from typing import Any

import langserve
import pytest
from fastapi import FastAPI
from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.pregel import Pregel
from langgraph.types import Interrupt
from streamserve_sdk import RemoteRunnable

from streamserve.app import create_app
from streamserve.catalog.registry import RegisteredChain, discover
from tests.servers import serving

Connect = Callable[[str], Runnable[Any, Any]]

REGISTRY = discover("chains").require_whole()
CASES = [(entry, example) for entry in REGISTRY.chains.values() for example in entry.chain.examples]
CLIENTS: dict[str, Connect] = {"sdk": RemoteRunnable, "stock": langserve.RemoteRunnable}

each_case = pytest.mark.parametrize(
    ("entry", "example"), CASES, ids=[f"{entry.name}-{entry.chain.examples.index(given)}" for entry, given in CASES]
)
each_client = pytest.mark.parametrize("connect", CLIENTS.values(), ids=CLIENTS.keys())


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(REGISTRY)


@pytest.fixture(scope="module")
def url(app: FastAPI) -> Iterator[str]:
    with serving(app) as address:
        yield address


@contextmanager
def closing_sync(remote: Any) -> Iterator[Runnable[Any, Any]]:
    """Close a client's connections; the stock client has no method for it."""
    try:
        yield remote
    finally:
        getattr(remote, "sync_client", remote).close()


@asynccontextmanager
async def closing(remote: Any) -> AsyncIterator[Runnable[Any, Any]]:
    """Close a client's connections at the end of an asynchronous test."""
    try:
        yield remote
    finally:
        await getattr(remote, "async_client", remote).aclose()


@each_client
@each_case
def test_a_chain_streams_as_it_does_in_process(
    url: str, connect: Connect, entry: RegisteredChain, example: Any
) -> None:
    with closing_sync(connect(f"{url}{entry.path}")) as remote_chain:
        remote = list(remote_chain.stream(example))
    assert comparable(remote) == comparable(list(in_process(entry, example)))
    assert len(remote) > 3


@each_client
@each_case
async def test_a_chain_streams_asynchronously_as_it_does_in_process(
    url: str, connect: Connect, entry: RegisteredChain, example: Any
) -> None:
    async with closing(connect(f"{url}{entry.path}")) as remote_chain:
        remote = [chunk async for chunk in remote_chain.astream(example)]
    assert comparable(remote) == comparable([chunk async for chunk in ain_process(entry, example)])


@each_client
@each_case
def test_a_chain_is_invoked_as_in_process(url: str, connect: Connect, entry: RegisteredChain, example: Any) -> None:
    with closing_sync(connect(f"{url}{entry.path}")) as remote_chain:
        remote = remote_chain.invoke(example)
    graph = isinstance(entry.runnable, Pregel)
    local = thread_of(entry.runnable).invoke(example) if graph else entry.runnable.invoke(example)
    assert comparable([remote]) == comparable([local])


def thread_of(graph: Runnable[Any, Any]) -> Runnable[Any, Any]:
    """Return a graph with a checkpointer and a new thread, as in the server."""
    assert isinstance(graph, Pregel)
    return graph.copy({"checkpointer": InMemorySaver()}).with_config(configurable={"thread_id": "1"})


def in_process(entry: RegisteredChain, example: Any) -> Iterator[Any]:
    """Return the stream of a chain in process: of a graph the message chunks, then the interrupt."""
    if not isinstance(entry.runnable, Pregel):
        yield from entry.runnable.stream(example)
        return
    for mode, chunk in thread_of(entry.runnable).stream(example, stream_mode=["messages", "updates"]):
        yield from _shown(mode, chunk)


async def ain_process(entry: RegisteredChain, example: Any) -> AsyncIterator[Any]:
    """Return the stream of a chain in process, by its asynchronous methods."""
    if not isinstance(entry.runnable, Pregel):
        async for chunk in entry.runnable.astream(example):
            yield chunk
        return
    async for mode, chunk in thread_of(entry.runnable).astream(example, stream_mode=["messages", "updates"]):
        for shown in _shown(mode, chunk):
            yield shown


def _shown(mode: str, chunk: Any) -> Iterator[Any]:
    if mode == "messages":
        yield chunk[0]
    elif "__interrupt__" in chunk:
        yield chunk


def comparable(chunks: list[Any]) -> list[Any]:
    """Return chunks without the ids that differ from run to run; their types are compared."""
    return [_plain(chunk) for chunk in chunks]


def _plain(value: Any) -> Any:
    if isinstance(value, BaseMessage):
        return (type(value).__name__, _plain(value.model_dump()))
    if isinstance(value, Interrupt):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {key: "ID" if key == "id" and _is_run_id(item) else _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _is_run_id(value: Any) -> bool:
    # The ids of messages and interrupts; the ids of tool calls come from the model and must be equal.
    return isinstance(value, str) and bool(re.fullmatch(r"(lc_)?(run-+)?[0-9a-f]{8}-?[0-9a-f-]{23,27}(-\d+)?", value))
