"""Events of version 3, LangChain's streaming protocol, from any runnable.

Chat models and graphs have such events. For every other chain this module makes them in the form of a graph's events:
the messages of the chain's chat models as they stream, then one `values` event with the chain's output.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping, Sequence
from inspect import isawaitable
from typing import Any, Literal, NamedTuple, get_args

from langchain_core.language_models.chat_model_stream import AsyncChatModelStream
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import merge_configs
from langgraph.stream import StreamTransformer

from streamserve.catalog.chain import StreamMode
from streamserve.errors import Internal
from streamserve.events.messages import MessageEvents, Metadata
from streamserve.events.pipe import Pipe, pipe_from
from streamserve.lcel.plans import plan_of
from streamserve.private_names.langchain_core import without_beta_warning

Event = dict[str, Any]
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
    **arguments: Any,
) -> EventSource:
    """Return the events of one run, which starts with the first event.

    Args:
        modes: stream modes whose events are visible (default: all).
        arguments: arguments of a graph's `astream`; `stream_mode` names modes beside `values` and `messages`.
    """
    native = await _native(runnable, input, config, _for_graph(arguments))
    if native is None:
        return EventSource("run", _of_chain(runnable, input, config))
    if isinstance(native, AsyncChatModelStream):
        return EventSource("message", _closing(native, native.aclose))
    return EventSource("run", _visible(_closing(native, native.abort), frozenset(modes)))


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


def _of_chain(runnable: Runnable[Any, Any], input: Any, config: RunnableConfig) -> AsyncGenerator[Event]:
    async def fill(pipe: Pipe) -> None:
        def emit(message: Mapping[str, Any], metadata: Metadata) -> None:
            pipe.put(_event("messages", (message, metadata)))

        handled = merge_configs(config, {"callbacks": [MessageEvents(emit)]})
        whole = plan_of(runnable, config)()
        async for chunk in runnable.astream(input, handled):
            whole.add(chunk)
            await pipe.room()
        pipe.put(_event("values", whole.value()))

    return pipe_from(fill)


def _event(method: str, data: Any) -> Event:
    params = {"namespace": [], "timestamp": int(time.time() * 1000), "data": data}
    return {"type": "event", "method": method, "params": params}
