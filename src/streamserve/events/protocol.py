"""Events of version 3, LangChain's streaming protocol, from any runnable.

Chat models and graphs have such events. For every other chain this module makes them in the form of a graph's events:
the messages of the chain's chat models as they stream, then one `values` event with the chain's output if it has one.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import is_dataclass
from inspect import isawaitable
from typing import Any, Literal, NamedTuple, get_args

from langchain_core.language_models.chat_model_stream import AsyncChatModelStream
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import merge_configs
from langgraph.pregel import Pregel
from langgraph.stream import StreamTransformer
from pydantic import BaseModel

from streamserve.catalog.chain import StreamMode
from streamserve.errors import Internal
from streamserve.events.messages import MessageEvents, Metadata
from streamserve.events.pipe import Pipe, pipe_from
from streamserve.graphs.modes import Output
from streamserve.lcel.plans import plan_of
from streamserve.lcel.whole import NoWhole
from streamserve.private_names.langchain_core import without_beta_warning

Event = dict[str, Any]
OnOutput = Callable[[Any], None]
STREAM_MODES = frozenset(get_args(StreamMode))


class EventSource(NamedTuple):
    """The events of a runnable and their kind.

    Args:
        kind: "message" for the events of one chat model's message; "run" for events of a graph or chain, each with a
            method and a namespace.
        events: the events; the reader iterates to their end or closes them.
    """

    kind: Literal["message", "run"]
    events: AsyncGenerator[Event]


async def open_events(
    runnable: Runnable[Any, Any],
    input: Any,
    config: RunnableConfig,
    modes: Sequence[StreamMode] = get_args(StreamMode),
    on_output: OnOutput = lambda _: None,
    **arguments: Any,
) -> EventSource:
    """Return the events of one run, which starts with the first event.

    Args:
        modes: stream modes whose events are visible (default: all).
        on_output: function that is called at the end with the output that `ainvoke` would have returned.
        arguments: arguments of a graph's `astream`; `stream_mode` names modes beside `values` and `messages`.
    """
    native = await _native(runnable, input, config, _for_graph(arguments))
    if native is None:
        return EventSource("run", _of_chain(runnable, input, config, on_output))
    if isinstance(native, AsyncChatModelStream):
        return EventSource("message", _of_model(native, on_output))
    events = _closing(native, native.abort)
    if isinstance(runnable, Pregel):
        events = _of_graph(events, Output(runnable, arguments), on_output)
    return EventSource("run", _visible(events, frozenset(modes)))


async def _native(runnable: Runnable[Any, Any], input: Any, config: RunnableConfig, arguments: dict[str, Any]) -> Any:
    with without_beta_warning():
        made: Any = runnable.astream_events(input, config, version="v3", **arguments)
        try:
            return await made if isawaitable(made) else None
        except NotImplementedError:
            return None


def _for_graph(arguments: dict[str, Any]) -> dict[str, Any]:
    requested = arguments.pop("stream_mode", None)
    if requested is None:
        return arguments
    wanted = (requested,) if isinstance(requested, str) else tuple(requested)

    class Requested(StreamTransformer):
        """A request for the caller's modes to the graph."""

        required_stream_modes = wanted

        def init(self) -> dict[str, Any]:
            return {}

        def process(self, _event: Any) -> bool:
            return True

    return {**arguments, "transformers": [Requested]}


async def _closing(stream: AsyncIterable[Any], close: Callable[[], Awaitable[None]]) -> AsyncGenerator[Event]:
    try:
        async for event in stream:
            yield event
    finally:
        await close()


async def _of_model(stream: AsyncChatModelStream, on_output: OnOutput) -> AsyncGenerator[Event]:
    async with aclosing(_closing(stream, stream.aclose)) as events:
        async for event in events:
            yield event
        on_output(await stream.output)


async def _of_graph(events: AsyncGenerator[Event], output: Output, on_output: OnOutput) -> AsyncGenerator[Event]:
    is_told = True
    async with aclosing(events):
        async for event in events:
            params = event["params"]
            if event["method"] == "values" and not params["namespace"]:
                values = params["data"]
                is_told = not is_dataclass(values)  # it does not tell which of its fields the state has
                output.add_values(_as_dict(values), params.get("interrupts", ()))
            yield event
        if is_told:
            on_output(output.result())


def _as_dict(values: Any) -> Any:
    """Return the values of a state as `ainvoke` has them: without fields that only the state's class fills."""
    if isinstance(values, BaseModel):
        return {name: getattr(values, name) for name in values.model_fields_set}
    return values


async def _visible(events: AsyncGenerator[Event], modes: frozenset[str]) -> AsyncGenerator[Event]:
    try:
        async for event in events:
            if event["method"] in modes or event["method"] not in STREAM_MODES:
                yield _without_secrets(event)
    finally:
        await events.aclose()


def _without_secrets(event: Event) -> Event:
    """Return the event without the text of an exception, which may hold secrets."""
    data = event["params"]["data"]
    if event["method"] != "lifecycle" or "error" not in data:
        return event
    return {**event, "params": {**event["params"], "data": {**data, "error": Internal.message}}}


def _of_chain(
    runnable: Runnable[Any, Any], input: Any, config: RunnableConfig, on_output: OnOutput
) -> AsyncGenerator[Event]:
    async def fill(pipe: Pipe) -> None:
        def emit(message: Mapping[str, Any], metadata: Metadata) -> None:
            pipe.put(_event("messages", (message, metadata)))

        handled = merge_configs(config, {"callbacks": [MessageEvents(emit)]})
        whole = plan_of(runnable, config)()
        async for chunk in runnable.astream(input, handled):
            whole.add(chunk)
            await pipe.room()
        with suppress(NoWhole):
            value = whole.value()
            on_output(value)
            pipe.put(_event("values", value))

    return pipe_from(fill)


def _event(method: str, data: Any) -> Event:
    params = {"namespace": [], "timestamp": int(time.time() * 1000), "data": data}
    return {"type": "event", "method": method, "params": params}
