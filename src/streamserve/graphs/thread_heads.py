"""The checkpoint that a run starts from: the thread's latest one, or the one before the runs that it rolls back."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.types import Command

from streamserve.call import ThreadLock
from streamserve.errors import InvalidInput, UnknownThread
from streamserve.errors.places import entry, invalid
from streamserve.graphs.commands import is_command
from streamserve.graphs.graph import Graph
from streamserve.graphs.input import Given
from streamserve.graphs.progress import RUN_ID
from streamserve.graphs.state_writes import is_doubtful, stored_values, try_out, writes_of
from streamserve.http.body import off_loop


def is_resume(graph: Graph, given: Any) -> bool:
    """Return True if an input, as JSON or as an object, resumes a thread."""
    if isinstance(given, Command):
        return given.resume is not None
    return given is None or (is_command(given, graph) and given.get("resume") is not None)


async def thread_exists(graph: Graph, thread_id: str) -> bool:
    """Return True if the thread has a checkpoint, or the graph has no checkpointer to look it up."""
    saver = graph.checkpointer
    if not isinstance(saver, BaseCheckpointSaver):
        return True
    return await saver.aget_tuple(_latest(thread_id)) is not None


def _latest(thread_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}


async def require_thread(graph: Graph, thread_id: str | None, given: Given) -> None:
    """Raise an error if an input resumes a thread that does not exist, or leaves keys to it that it does not have.

    Raises:
        UnknownThread: The input resumes a thread without a checkpoint.
        InvalidInput: The input resumes, and the config names no thread; or required keys are missing.
    """
    if given.missing:
        stored = await stored_values(graph, _latest(thread_id)) if thread_id else {}
        missing = [key for key in given.missing if key not in stored]
        if missing:
            raise InvalidInput([entry((*given.place, key), "Field required", "missing") for key in missing])
    if not is_resume(graph, given.value) or not isinstance(graph.checkpointer, BaseCheckpointSaver):
        return
    if not thread_id:
        raise invalid(("body",), "Cannot resume: config.configurable.thread_id is missing", "missing")
    if not await thread_exists(graph, thread_id):
        raise UnknownThread()


@asynccontextmanager
async def starting_config(
    graph: Graph, lock: ThreadLock | None, thread_id: str | None, config: RunnableConfig, given: Given
) -> AsyncIterator[RunnableConfig]:
    """Lock the thread for a run, if the caller named one, and yield the config that the run starts with.

    Args:
        graph: the graph.
        lock: the lock of threads.
        thread_id: the thread that the caller named.
        config: the run's whole config.
        given: the input.

    Raises:
        ServeError: The thread is busy or unknown, or the state does not take the input.
    """
    if lock is None or not thread_id:
        await require_thread(graph, thread_id, given)
        await _try_out(graph, config, given)
        yield config
        return
    async with lock(thread_id, str(config["run_id"])) as cancelled:
        own = await config_before(graph, config, cancelled)
        await require_thread(graph, thread_id, given)
        await _try_out(graph, own, given)
        yield own


async def _try_out(graph: Graph, config: RunnableConfig, given: Given) -> None:
    writes = writes_of(given.value, given.place)
    if is_doubtful(graph, writes):
        await off_loop(try_out, graph, [writes], await stored_values(graph, config))


async def config_before(graph: Graph, config: RunnableConfig, run_ids: Collection[str]) -> RunnableConfig:
    """Return a config at the thread's checkpoint before some runs; delete a thread that these runs started."""
    saver, configurable = graph.checkpointer, config["configurable"]
    if not run_ids or configurable.get("checkpoint_id") or not isinstance(saver, BaseCheckpointSaver):
        return config
    thread_id = configurable["thread_id"]
    # No saver can delete the checkpoints of one run, so they stay as a branch of the thread.
    async for found in saver.alist(_latest(thread_id)):
        if found.metadata.get(RUN_ID) not in run_ids:
            checkpoint_id = found.config["configurable"]["checkpoint_id"]
            return {**config, "configurable": {**configurable, "checkpoint_id": checkpoint_id}}
    await saver.adelete_thread(thread_id)
    return config
