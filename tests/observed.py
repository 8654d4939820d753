"""The observations of a stream: chunks, callbacks, traces, events and logs, with comparable run ids."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pprint import pformat
from typing import Any

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_VOLATILE = re.compile(r"0x[0-9a-f]+|\d{4}-\d\d-\d\dT[\d:.+]+")
_EVENTS = ("start", "end", "error")
_KINDS = ("chain", "llm", "tool", "retriever")


def comparable(shown: list[Any], *, ordered: bool = True) -> list[str]:
    """Return a value as text with its run ids numbered in order of appearance, or all alike without an order."""
    ids: dict[str, str] = {}

    def number(found: re.Match[str]) -> str:
        return ids.setdefault(found[0], f"run-{len(ids)}") if ordered else "run"

    # The order of a dict's keys does not count: pformat sorts them.
    texts = [_VOLATILE.sub("", _ID.sub(number, repr(each) if ordered else pformat(each, width=9999))) for each in shown]
    return texts if ordered else sorted(texts)


class Calls:
    """The calls of a handler."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def note(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep one call; an error as its text, because each run raises its own exception."""
        shown = [repr(each) if isinstance(each, BaseException) else each for each in args]
        self.calls.append((name, shown, sorted(kwargs.items())))


class SyncRecorder(Calls, BaseCallbackHandler):
    """A synchronous handler."""

    run_inline = True


class AsyncRecorder(Calls, AsyncCallbackHandler):
    """An asynchronous handler."""


def _sync(name: str) -> Any:
    return lambda self, *args, **kwargs: self.note(name, args, kwargs)


def _async(name: str) -> Any:
    async def record(self: Calls, *args: Any, **kwargs: Any) -> None:
        self.note(name, args, kwargs)

    return record


for _name in (
    *(f"on_{kind}_{event}" for kind in _KINDS for event in _EVENTS),
    "on_chat_model_start",
    "on_custom_event",
):
    setattr(SyncRecorder, _name, _sync(_name))
    setattr(AsyncRecorder, _name, _async(_name))
for _name in ("on_llm_new_token", "on_text", "on_retry"):
    setattr(SyncRecorder, _name, _sync(_name))
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
        children.sort(key=lambda child: comparable([child], ordered=False))
    return (run.name, run.run_type, run.tags, run.inputs, run.outputs, error, events, run.extra, run.id, children)


async def chunks_of(chain: Runnable[Any, Any], value: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
    """Return the chunks of a stream, with its error as the last one."""
    return await until_the_end(chain.astream(value, config, **kwargs))


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


async def until_the_end(stream: AsyncIterator[Any]) -> list[Any]:
    """Return the items of a stream, with its error as the last one."""
    shown: list[Any] = []
    try:
        async for each in stream:
            shown += [each]
    except Exception as error:
        shown.append((type(error), str(error)))
    return shown


def without_ids(value: Any) -> Any:
    """Return JSON without message ids, which differ from call to call."""
    if isinstance(value, dict):
        return {key: without_ids(item) for key, item in value.items() if key != "id"}
    return [without_ids(item) for item in value] if isinstance(value, list) else value
