"""One stream, read three ways: in process, and through the SDK, sync and async."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import Callable
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver
from streamserve_sdk import RemoteRunnable

from streamserve import Chain
from streamserve.catalog.chain import StreamMode
from tests.graphs.examples import EXAMPLES
from tests.graphs.parity import assert_same
from tests.limits import LIMIT

MODES: tuple[StreamMode, ...] = ("values", "updates", "messages", "custom", "tasks", "checkpoints", "debug")

Stream = Callable[[str, str, dict[str, Any]], list[Any]]

_local: dict[str, list[Any]] = {}


def chains() -> dict[str, Chain]:
    """Return all examples as chains that allow every mode."""
    return {name: Chain(runnable=one.builder.compile(name=name), stream_modes=MODES) for name, one in EXAMPLES.items()}


def new_thread() -> Any:
    """Return a config with a new thread, and the fields that a caller may add to every message."""
    return {"configurable": {"thread_id": str(uuid.uuid4())}, "tags": ["mine"], "metadata": {"author": "Ada"}}


def local_graph(name: str) -> Any:
    """Return the example's graph with a checkpointer, as in the server."""
    return EXAMPLES[name].builder.compile(name=name, checkpointer=InMemorySaver())


def local(name: str, arguments: dict[str, Any]) -> list[Any]:
    """Return the items that the graph streams in process."""
    key = f"{name} {arguments}"
    if key not in _local:
        _local[key] = asyncio.run(_read_local(name, arguments))
    return _local[key]


async def _read_local(name: str, arguments: dict[str, Any]) -> list[Any]:
    graph, config = local_graph(name), new_thread()
    async with asyncio.timeout(LIMIT):
        # Copied at once: items share messages with the state, and a message gets its id when the step ends.
        return [
            copy.deepcopy(item)
            for turn in EXAMPLES[name].turns
            async for item in graph.astream(turn, config, **arguments)
        ]


def remote_sync(url: str, name: str, arguments: dict[str, Any]) -> list[Any]:
    """Return the items of `RemoteRunnable.stream`."""
    config = new_thread()
    with RemoteRunnable[Any, Any](f"{url}/{name}") as remote:
        return [item for turn in EXAMPLES[name].turns for item in remote.stream(turn, config, **arguments)]


def remote_async(url: str, name: str, arguments: dict[str, Any]) -> list[Any]:
    """Return the items of `RemoteRunnable.astream`."""
    return asyncio.run(_read_remote(url, name, arguments))


async def _read_remote(url: str, name: str, arguments: dict[str, Any]) -> list[Any]:
    config = new_thread()
    async with asyncio.timeout(LIMIT), RemoteRunnable[Any, Any](f"{url}/{name}") as remote:
        return [item for turn in EXAMPLES[name].turns async for item in remote.astream(turn, config, **arguments)]


def assert_parity(url: str, name: str, stream: Stream, arguments: dict[str, Any]) -> None:
    """Fail unless the remote stream equals the one in process, item by item."""
    expected, came = local(name, arguments), stream(url, name, arguments)
    if expected or came:
        assert_same(came, expected)
