"""The progress of a graph in a run whose owner is dead, read from its checkpoints."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.types import Interrupt, StateSnapshot

from streamserve.graphs.graph import INTERRUPT, Graph

# The key in a checkpoint's metadata with the id of the run, as in LangGraph's server.
RUN_ID = "run_id"


def with_run_id(config: Mapping[str, Any], run_id: str) -> dict[str, Any]:
    """Return a config whose checkpoints name their run."""
    return {**config, "metadata": {**(config.get("metadata") or {}), RUN_ID: run_id}}


def at_latest_checkpoint(config: RunnableConfig) -> RunnableConfig:
    """Return a config without the checkpoint that a run started from, because the run's own checkpoints are later."""
    return {**config, "configurable": {**config.get("configurable", {}), "checkpoint_id": None}}


class StoppedGraph:
    """A graph that waits for an answer, because it was interrupted before its owner died."""

    def __init__(self, graph: Graph, snapshot: StateSnapshot) -> None:
        self._graph = graph
        self._values = snapshot.values
        self._interrupts: tuple[Interrupt, ...] = snapshot.interrupts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._graph, name)

    async def astream(self, _input: Any, _config: RunnableConfig, **options: Any) -> AsyncIterator[Any]:
        """Yield the last items of the graph's stream: its values and its interrupts."""
        last = {"values": self._values, "updates": {INTERRUPT: self._interrupts}}
        for mode, data in last.items():
            if mode not in options["stream_mode"]:
                continue
            if options.get("version") == "v2":
                interrupts = {"interrupts": self._interrupts} if mode == "values" else {}
                yield {"type": mode, "ns": (), "data": data, **interrupts}
            else:
                yield ((), mode, data) if options.get("subgraphs") else (mode, data)


async def progress_of(
    graph: Graph, config: RunnableConfig, run_id: str, arguments: Mapping[str, Any]
) -> Graph | StoppedGraph | None:
    """Return the graph that resumes a run from the latest checkpoint of its thread.

    Args:
        config: the run's config, with a thread and without a checkpoint.
        arguments: the arguments of the run's request; its breakpoints override the graph's own.

    Returns:
        The graph, a stopped graph if it waits for an answer, or None if the run has no checkpoint and must start again.
    """
    if not [snapshot async for snapshot in graph.aget_state_history(config, filter={RUN_ID: run_id}, limit=1)]:
        return None
    latest = await graph.aget_state(config)
    own = (latest.metadata or {}).get(RUN_ID) == run_id
    return StoppedGraph(graph, latest) if own and await _has_stopped(graph, latest, arguments) else graph


async def _has_stopped(graph: Graph, latest: StateSnapshot, arguments: Mapping[str, Any]) -> bool:
    # LangGraph would take a `None` input for the answer to an interrupt or breakpoint, and no answer was given.
    if latest.tasks and all(task.interrupts for task in latest.tasks):
        return True
    before = arguments.get("interrupt_before", graph.interrupt_before_nodes)
    after = arguments.get("interrupt_after", graph.interrupt_after_nodes)
    if _names_one(before, latest.next):
        return True
    if not after or not latest.next or latest.parent_config is None:
        return False
    return _names_one(after, (await graph.aget_state(latest.parent_config)).next)


def _names_one(breakpoints: Sequence[str] | str, nodes: Collection[str]) -> bool:
    return bool(nodes) if breakpoints == "*" else not set(breakpoints).isdisjoint(nodes)
