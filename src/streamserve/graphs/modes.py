"""A graph's stream in the requested modes, as in process, plus the output that `ainvoke` would have returned."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.utils import AddableDict
from langgraph.types import GraphOutput

from streamserve.catalog.chain import StreamMode
from streamserve.graphs.graph import INTERRUPT, Graph
from streamserve.user import CONFIG_KEYS

# `ainvoke` returns the last item of `values` and the interrupts of `updates`.
OUTPUT_MODES: tuple[StreamMode, ...] = ("updates", "values")
_WITH_CONFIGS: tuple[StreamMode, ...] = ("checkpoints", "debug")


async def astream(
    graph: Graph, input: Any, config: RunnableConfig, arguments: Mapping[str, Any], on_output: Callable[[Any], None]
) -> AsyncIterator[Any]:
    """Yield a graph's stream; without `stream_mode` its message chunks, then the interrupt if there is one.

    Args:
        on_output: function that is called at the end with the output that `ainvoke` would have returned.
    """
    form = _Form(arguments)
    output = Output(graph, arguments)
    options: dict[str, Any] = {**arguments, "stream_mode": form.modes, "subgraphs": form.subgraphs}
    async for item in graph.astream(input, config, **options):
        namespace, mode, chunk = form.split(item)
        if mode in _WITH_CONFIGS:
            _drop_user(chunk)
        if mode == "values" and not namespace:
            output.add_values(chunk, item["interrupts"] if form.is_v2 else ())
        elif mode == "updates" and not namespace and not form.is_v2:
            output.add_update(chunk)
        if mode in form.requested:
            yield form.shape(item, namespace, mode, chunk)
        elif form.is_default and not namespace and mode == "updates" and INTERRUPT in chunk:
            yield form.shape(item, namespace, mode, AddableDict({INTERRUPT: list(chunk[INTERRUPT])}))
    on_output(output.result())


def _drop_user(chunk: dict[str, Any]) -> None:
    # LangGraph makes these configs for the stream; the caller's claims are not for the wire.
    payload = chunk.get("payload", chunk)
    for name in ("config", "parent_config"):
        configurable = (payload.get(name) or {}).get("configurable", {})
        for key in CONFIG_KEYS:
            configurable.pop(key, None)


class _Form:
    """The requested modes, and the form of their items in process."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        modes: str | list[str] | None = arguments.get("stream_mode")
        self.is_default = modes is None
        self.is_v2 = arguments.get("version") == "v2"
        self.subgraphs = bool(arguments.get("subgraphs"))
        self.requested = ["messages"] if modes is None else [modes] if isinstance(modes, str) else modes
        self.modes = [*self.requested, *(mode for mode in OUTPUT_MODES if mode not in self.requested)]
        self._names_mode = isinstance(modes, list)

    def split(self, item: Any) -> tuple[tuple[str, ...], str, Any]:
        if self.is_v2:
            return item["ns"], item["type"], item["data"]
        return item if self.subgraphs else ((), *item)

    def shape(self, item: Any, namespace: tuple[str, ...], mode: str, chunk: Any) -> Any:
        if self.is_v2:
            return item
        if self.is_default and mode == "messages":
            chunk = chunk[0]
        if not self.subgraphs:
            return (mode, chunk) if self._names_mode else chunk
        return (namespace, mode, chunk) if self._names_mode else (namespace, chunk)


class Output:
    """The output that `ainvoke` would have returned, collected from the stream of the outermost graph.

    Args:
        graph: the graph.
        arguments: the arguments of the run.
    """

    def __init__(self, graph: Graph, arguments: Mapping[str, Any]) -> None:
        self._graph, self._arguments = graph, arguments
        self._latest: Any = None
        self._interrupts: list[Any] = []

    def add_values(self, values: Any, interrupts: Iterable[Any] = ()) -> None:
        """Take the next values of the state, with the interrupts that came with them."""
        self._latest = values
        self._interrupts += interrupts

    def add_update(self, update: Any) -> None:
        """Take the next update of the state, which may hold interrupts."""
        if isinstance(update, dict):
            self._interrupts += update.get(INTERRUPT, ())

    def result(self) -> Any:
        """Return the output."""
        has_keys = "output_keys" in self._arguments
        latest = self._latest if has_keys else _output_of(self._graph, self._latest)
        if self._arguments.get("version") == "v2":
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
