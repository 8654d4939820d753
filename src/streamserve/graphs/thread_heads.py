"""Where a run begins on its thread: at its latest checkpoint, or before the runs that it undoes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.types import Command

from streamserve.call import Turn
from streamserve.errors import UnknownThread
from streamserve.errors.places import invalid
from streamserve.graphs.commands import is_command
from streamserve.graphs.graph import Graph
from streamserve.graphs.progress import RUN_ID


def goes_on(graph: Graph, given: Any) -> bool:
    """Whether an input, as JSON or as an object, needs a thread that has begun."""
    if isinstance(given, Command):
        return given.resume is not None
    return given is None or (is_command(given, graph) and given.get("resume") is not None)


async def has_begun(graph: Graph, thread_id: str) -> bool:
    """Whether there is a checkpoint of the thread; of a graph that keeps none nobody knows."""
    saver = graph.checkpointer
    if not isinstance(saver, BaseCheckpointSaver):
        return True
    return await saver.aget_tuple({"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}) is not None


async def require_begun(graph: Graph, thread_id: str | None, given: Any) -> None:
    """Lets pass what fits the thread.

    Args:
        graph: with its checkpointer.
        thread_id: None if the caller named none.
        given: the input.

    Raises:
        UnknownThread: the input goes on with a thread that has not begun.
        InvalidInput: it goes on with none.
    """
    if not goes_on(graph, given) or not isinstance(graph.checkpointer, BaseCheckpointSaver):
        return
    if not thread_id:
        raise invalid(("body",), "There is nothing to go on from: the config names no thread", "missing")
    if not await has_begun(graph, thread_id):
        raise UnknownThread()


@asynccontextmanager
async def begun(
    graph: Graph, turn: Turn | None, thread_id: str | None, config: RunnableConfig, given: Any
) -> AsyncIterator[RunnableConfig]:
    """The config that a run begins with, once it is its turn on its thread.

    Args:
        graph: with its checkpointer.
        turn: of the request.
        thread_id: None if the caller named none: then nothing is waited for.
        config: whole.
        given: the input.

    Raises:
        ServeError: the thread is busy or has not begun.
    """
    if turn is None or not thread_id:
        await require_begun(graph, thread_id, given)
        yield config
        return
    async with turn(thread_id, str(config["run_id"])) as undone:
        own = await before(graph, config, undone)
        await require_begun(graph, thread_id, given)
        yield own


async def before(graph: Graph, config: RunnableConfig, run_ids: Collection[str]) -> RunnableConfig:
    """A config that begins where the thread was before these runs; a thread that they began is deleted.

    Args:
        graph: with its checkpointer.
        config: with a thread; a checkpoint that it names stays.
        run_ids: cancelled runs that marked their checkpoints.
    """
    saver, configurable = graph.checkpointer, config["configurable"]
    if not run_ids or configurable.get("checkpoint_id") or not isinstance(saver, BaseCheckpointSaver):
        return config
    thread_id = configurable["thread_id"]
    # No saver deletes the checkpoints of a run, so they stay beside the way that the thread takes.
    async for found in saver.alist({"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}):
        if found.metadata.get(RUN_ID) not in run_ids:
            checkpoint_id = found.config["configurable"]["checkpoint_id"]
            return {**config, "configurable": {**configurable, "checkpoint_id": checkpoint_id}}
    await saver.adelete_thread(thread_id)
    return config
