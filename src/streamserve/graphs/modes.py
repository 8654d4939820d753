"""A graph's stream in the requested modes, as in process, plus the output that `ainvoke` would have returned."""

from collections.abc import AsyncIterator, Callable, Mapping
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
    output = _Output(form.is_v2)
    options: dict[str, Any] = {**arguments, "stream_mode": form.modes, "subgraphs": form.subgraphs}
    async for item in graph.astream(input, config, **options):
        namespace, mode, chunk = form.split(item)
        if mode in _WITH_CONFIGS:
            _drop_user(chunk)
        if mode in OUTPUT_MODES and not namespace:
            output.add(mode, chunk, item)
        if mode in form.requested:
            yield form.shape(item, namespace, mode, chunk)
        elif form.is_default and not namespace and mode == "updates" and INTERRUPT in chunk:
            yield form.shape(item, namespace, mode, AddableDict({INTERRUPT: list(chunk[INTERRUPT])}))
    on_output(output.result(graph, "output_keys" in arguments))


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


class _Output:
    """The output that `ainvoke` would have returned, collected from the stream of the outermost graph."""

    def __init__(self, is_v2: bool) -> None:
        self._is_v2 = is_v2
        self._latest: Any = None
        self._interrupts: list[Any] = []

    def add(self, mode: str, chunk: Any, item: Any) -> None:
        if mode == "values":
            self._latest = chunk
            if self._is_v2:
                self._interrupts += item["interrupts"]
        elif not self._is_v2 and isinstance(chunk, dict):
            self._interrupts += chunk.get(INTERRUPT, ())

    def result(self, graph: Graph, has_output_keys: bool) -> Any:
        latest = self._latest if has_output_keys else _output_of(graph, self._latest)
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
