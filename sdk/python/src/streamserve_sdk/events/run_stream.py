"""Turn the events of a remote graph or chain into LangGraph's own run streams, with all of their projections.

A run stream makes events of the parts that a local graph yields. The server sends events, so events that LangGraph
derives from parts are turned back into these parts: a subgraph's `lifecycle` into its `tasks`.
"""

from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any

from streamserve_sdk.events.compact import Event, Expander
from streamserve_sdk.private_names.langchain_core import without_beta_warning
from streamserve_sdk.private_names.langgraph import stream_mux

if TYPE_CHECKING:
    from langgraph.stream import AsyncGraphRunStream, GraphRunStream

# Takes the namespace of a graph or subgraph and returns a `langgraph.stream.StreamTransformer`.
Transformer = Callable[[tuple[str, ...]], Any]
Part = dict[str, Any]

# The server sends these for every run, and `tasks` in the form of `lifecycle`.
_ALWAYS = {"values", "messages"}


def asked_modes(transformers: Sequence[Transformer]) -> list[str]:
    """Return the stream modes that the caller's transformers need beyond those that are always sent.

    Args:
        transformers: those of `CompiledStateGraph.astream_events`.

    Raises:
        NotImplementedError: a transformer needs tasks, which a remote graph does not send.
    """
    needed = {mode for make in transformers for mode in make(()).required_stream_modes} - _ALWAYS
    if "tasks" in needed:
        raise NotImplementedError("a remote graph reports its tasks in `lifecycle` only")
    return sorted(needed)


def arun_stream(
    values: AsyncGenerator[Any], expander: Expander, transformers: Sequence[Transformer]
) -> "AsyncGraphRunStream":
    """Return the run stream of the values that follow the head; arguments are those of `run_stream`."""
    with without_beta_warning():
        from langgraph.stream import AsyncGraphRunStream

        return AsyncGraphRunStream(_aparts(values, expander), _mux(expander, transformers, is_async=True))


def run_stream(values: Generator[Any], expander: Expander, transformers: Sequence[Transformer]) -> "GraphRunStream":
    """Return the run stream of the values that follow the head.

    Args:
        values: the stream's values after the head; closed when the run stream is aborted.
        expander: the expander of the compact form.
        transformers: the caller's transformers.
    """
    with without_beta_warning():
        from langgraph.stream import GraphRunStream

        return GraphRunStream(_parts(values, expander), _mux(expander, transformers, is_async=False))


def _mux(expander: Expander, transformers: Sequence[Transformer], *, is_async: bool) -> Any:
    from langgraph.stream import LifecycleTransformer, StreamTransformer, SubgraphTransformer
    from langgraph.stream.transformers import MessagesTransformer, ValuesTransformer

    class ServersTime(StreamTransformer):
        """Give events the time at which they happened on the server."""

        before_builtins = True

        def init(self) -> dict[str, Any]:
            return {}

        def process(self, event: Any) -> bool:
            event["params"]["timestamp"] = expander.timestamp
            return True

    built_in = (ServersTime, ValuesTransformer, MessagesTransformer, LifecycleTransformer, SubgraphTransformer)
    return stream_mux()(factories=[*built_in, *transformers], is_async=is_async)


async def _aparts(values: AsyncGenerator[Any], expander: Expander) -> AsyncGenerator[Part]:
    tasks = _Tasks()
    async with aclosing(values):
        async for value in values:
            for part in tasks.parts(expander.run_event(value)):
                yield part


def _parts(values: Generator[Any], expander: Expander) -> Generator[Part]:
    tasks = _Tasks()
    with closing(values):
        for value in values:
            yield from tasks.parts(expander.run_event(value))


class _Tasks:
    """Turn events back into the parts that they were made of."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, ...], str] = {}

    def parts(self, event: Event) -> Iterator[Part]:
        if event["method"] == "lifecycle":
            yield from self._of_lifecycle(event["data"])
            return
        interrupts = event.get("interrupts", () if event["method"] == "values" else None)
        part = {"type": event["method"], "ns": tuple(event["namespace"]), "data": event["data"]}
        yield part if interrupts is None else {**part, "interrupts": tuple(interrupts)}

    def _of_lifecycle(self, data: Event) -> Iterator[Part]:
        namespace = tuple(data["namespace"])
        if data["event"] != "started":
            result: Event = {"id": self._open.pop(namespace, ""), "result": {}, "error": data.get("error")}
            interrupts = [True] if data["event"] == "interrupted" else []
            yield _task(namespace[:-1], {**result, "interrupts": interrupts})
            return
        task = self._open[namespace] = data["trigger_call_id"]
        if cause := data.get("cause"):
            yield _task(namespace[:-1], {"id": task, "input": {"tool_call": {"id": cause["tool_call_id"]}}})
        name, said = data.get("graph_name"), namespace[-1].partition(":")[0]
        # An agent has a name of its own; any other subgraph has its node's name.
        yield _task(namespace, {"metadata": {"lc_agent_name": name} if cause or name != said else {}})


def _task(namespace: tuple[str, ...], data: Event) -> Part:
    return {"type": "tasks", "ns": namespace, "data": data}
