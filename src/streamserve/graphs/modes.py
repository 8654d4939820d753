"""A graph's stream in the modes asked for, as in process, and beside it what `ainvoke` would have returned."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.utils import AddableDict
from langgraph.types import GraphOutput

from streamserve.catalog.chain import StreamMode
from streamserve.graphs.graph import INTERRUPT, Graph

# What `ainvoke` returns is the last of `values`, and the interrupts of `updates`.
OUTPUT_MODES: tuple[StreamMode, ...] = ("updates", "values")


async def astream(
    graph: Graph,
    input: Any,
    config: RunnableConfig,
    arguments: Mapping[str, Any],
    on_output: Callable[[Any], None],
) -> AsyncIterator[Any]:
    """A graph's stream; without `stream_mode` its message chunks, then the interrupt if it stops for one.

    Args:
        graph: with a checkpointer if it can stop.
        input: state, Command or None.
        config: with a thread.
        arguments: as for `CompiledStateGraph.astream`.
        on_output: called at the end with what `ainvoke` would have returned.
    """
    form = _Form(arguments)
    output = _Output(form.is_v2)
    options: dict[str, Any] = {**arguments, "stream_mode": form.every, "subgraphs": form.subgraphs}
    async for item in graph.astream(input, config, **options):
        namespace, mode, chunk = form.parts(item)
        if mode in OUTPUT_MODES and not namespace:
            output.take(mode, chunk, item)
        if mode in form.asked:
            yield form.shaped(item, namespace, mode, chunk)
        elif form.is_default and not namespace and mode == "updates" and INTERRUPT in chunk:
            yield form.shaped(item, namespace, mode, AddableDict({INTERRUPT: list(chunk[INTERRUPT])}))
    on_output(output.whole(graph, "output_keys" in arguments))


class _Form:
    """What the caller asked for, and the form that its items have in process."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        modes: str | list[str] | None = arguments.get("stream_mode")
        self.is_default = modes is None
        self.is_v2 = arguments.get("version") == "v2"
        self.subgraphs = bool(arguments.get("subgraphs"))
        self.asked = ["messages"] if modes is None else [modes] if isinstance(modes, str) else modes
        self.every = [*self.asked, *(mode for mode in OUTPUT_MODES if mode not in self.asked)]
        self._names_mode = isinstance(modes, list)

    def parts(self, item: Any) -> tuple[tuple[str, ...], str, Any]:
        """Namespace, mode and chunk of what a graph yields for a list of modes."""
        if self.is_v2:
            return item["ns"], item["type"], item["data"]
        return item if self.subgraphs else ((), *item)

    def shaped(self, item: Any, namespace: tuple[str, ...], mode: str, chunk: Any) -> Any:
        """What the graph yields for the modes that were asked for."""
        if self.is_v2:
            return item
        if self.is_default and mode == "messages":
            chunk = chunk[0]
        if not self.subgraphs:
            return (mode, chunk) if self._names_mode else chunk
        return (namespace, mode, chunk) if self._names_mode else (namespace, chunk)


class _Output:
    """What `ainvoke` would have returned, gathered from the stream of the outermost graph."""

    def __init__(self, is_v2: bool) -> None:
        self._is_v2 = is_v2
        self._latest: Any = None
        self._interrupts: list[Any] = []

    def take(self, mode: str, chunk: Any, item: Any) -> None:
        """Takes an item of one of `OUTPUT_MODES`."""
        if mode == "values":
            self._latest = chunk
            if self._is_v2:
                self._interrupts += item["interrupts"]
        elif not self._is_v2 and isinstance(chunk, dict):
            self._interrupts += chunk.get(INTERRUPT, ())

    def whole(self, graph: Graph, is_chosen: bool) -> Any:
        """The output.

        Args:
            graph: says what its output is; its stream has the whole state.
            is_chosen: the caller said which keys it wants.
        """
        latest = self._latest if is_chosen else _output_of(graph, self._latest)
        if self._is_v2:
            return GraphOutput(value=latest, interrupts=tuple(self._interrupts))
        if not self._interrupts:
            return latest
        return {**(latest if isinstance(latest, dict) else {}), INTERRUPT: self._interrupts}


def _output_of(graph: Graph, state: Any) -> Any:
    if not isinstance(state, dict) or graph.output_channels == graph.stream_channels_asis:
        return state
    if isinstance(graph.output_channels, str):
        return state.get(graph.output_channels)
    return {key: state[key] for key in graph.output_channels if key in state}
