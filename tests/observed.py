"""The observations of a stream: chunks, callbacks, traces, events and logs, with comparable run ids."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run

from streamserve.lcel.recorder import CALLS, Calls, comparable, until_the_end


class AsyncRecorder(Calls, AsyncCallbackHandler):
    """An asynchronous handler."""


def _async(name: str) -> Any:
    async def record(self: Calls, *args: Any, **kwargs: Any) -> None:
        self.note(name, args, kwargs)

    return record


for _name in CALLS:
    setattr(AsyncRecorder, _name, _async(_name))


class Tracer(BaseTracer):
    """A tracer that keeps the trees of runs."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Any] = []

    def _persist_run(self, run: Run) -> None:
        self.runs.append(_tree(run))


def _tree(run: Run) -> Any:
    error = (run.error or "").partition("Traceback")[0]
    events = [event["name"] for event in run.events]
    children = [_tree(child) for child in run.child_runs]
    if run.name.startswith("RunnableParallel<"):  # its branches run at once, and start in any order
        children.sort(key=lambda child: repr(comparable([child], ordered=False)))
    return (run.name, run.run_type, run.tags, run.inputs, run.outputs, error, events, run.extra, run.id, children)


async def chunks_of(chain: Runnable[Any, Any], value: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
    """Return the chunks of a stream, with its error as the last one."""
    return await until_the_end(chain.astream(value, config, **kwargs))


async def outcome(work: Awaitable[Any]) -> list[Any]:
    """Return the result of some work, or its error."""
    try:
        return [await work]
    except Exception as error:
        return [(type(error), str(error))]


async def answer_of(chain: Runnable[Any, Any], value: Any, config: RunnableConfig) -> list[Any]:
    """Return the answer of a call, or its error."""
    return await outcome(chain.ainvoke(value, config))


async def calls_of(handler: Calls, chain: Runnable[Any, Any], value: Any, config: RunnableConfig) -> list[Any]:
    """Return the calls of a handler."""
    await chunks_of(chain, value, {**config, "callbacks": [handler]})
    return handler.calls


async def runs_of(chain: Runnable[Any, Any], value: Any, config: RunnableConfig) -> list[Any]:
    """Return the tree of runs."""
    tracer = Tracer()
    await chunks_of(chain, value, {**config, "callbacks": [tracer]})
    return tracer.runs


async def events_of(chain: Runnable[Any, Any], value: Any, config: RunnableConfig, version: Any) -> list[Any]:
    """Return the events of `astream_events`."""
    return await until_the_end(chain.astream_events(value, config, version=version))


async def patches_of(chain: Runnable[Any, Any], value: Any, config: RunnableConfig) -> list[Any]:
    """Return the patches of `astream_log`."""
    return await until_the_end(chain.astream_log(value, config))


def without_ids(value: Any) -> Any:
    """Return JSON without message ids, which differ from call to call."""
    if isinstance(value, dict):
        return {key: without_ids(item) for key, item in value.items() if key != "id"}
    return [without_ids(item) for item in value] if isinstance(value, list) else value
