"""Frames of the event streams."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.tracers.log_stream import RunLogPatch

from streamserve.catalog.chain import Chain
from streamserve.doors.langserve.feedback import tokens_of
from streamserve.lcel.readings import Changes
from streamserve.lcel.traced_stream import close
from streamserve.runs.run import Events
from streamserve.serving.served import ServedRunnable
from streamserve.wire.patches import patch_line
from streamserve.wire.serializer import to_line

Dumps = Callable[[Any], bytes]


async def frames(
    served: ServedRunnable, endpoint: str, given: Any, config: RunnableConfig, filters: Mapping[str, Any], dumps: Dumps
) -> Events:
    """Yield the events of a stream as LangServe does, without its `metadata` and `error`, which runs have already.

    Logs and events have no data if the record hides the chain's steps.

    Args:
        served: the chain.
        endpoint: "stream", "stream_log" or "stream_events".
        given: the input.
        config: the config of the run.
        filters: the filters of logs and events.
        dumps: the serializer.
    """
    source: Any
    form: Callable[[Any], Any] | None = None
    shown = endpoint == "stream" or served.shows_steps
    changes = Changes()
    if endpoint == "stream":
        source = served.astream(given, config, changes=changes)
    elif endpoint == "stream_log":
        source, form = served.astream_log(given, config, diff=True, **filters), _operations
    else:
        source, form = served.astream_events(given, config, **filters), _without_internal_keys
    tokens = _tokens_of(served.served.chain, config) if served.served.chain.token_feedback else None
    try:
        async for value in source:
            if (operations := changes.take()) is not None:
                yield {"event": "patch", "data": patch_line(operations)}
            elif shown:
                yield {"event": "data", "data": dumps(form(value) if form else value)}
            if tokens is not None and tokens.done():
                yield {"event": "metadata", "data": to_line(tokens.result())}
                tokens = None
        if tokens is not None:
            yield {"event": "metadata", "data": to_line(await tokens)}
        yield {"event": "end"}
    finally:
        if tokens is not None:
            tokens.cancel()
        await close(source)


def _tokens_of(chain: Chain, config: RunnableConfig) -> asyncio.Task[dict[str, Any]]:
    async def made() -> dict[str, Any]:
        run_id = str(config.get("run_id"))
        return {"run_id": run_id, "feedback_tokens": await tokens_of(chain, run_id)}

    return asyncio.create_task(made())


def _operations(patch: RunLogPatch) -> dict[str, Any]:
    return {"ops": patch.ops}


def _without_internal_keys(event: dict[str, Any]) -> dict[str, Any]:
    event["metadata"] = {name: value for name, value in event["metadata"].items() if not name.startswith("__")}
    return event
