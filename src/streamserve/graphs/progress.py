"""How far a graph came in a run whose worker died, as its checkpoints tell."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.types import Interrupt, StateSnapshot

from streamserve.graphs.graph import INTERRUPT, Graph

# The key in a checkpoint's metadata that names the run, as on LangGraph's server.
RUN_ID = "run_id"


def marked(config: Mapping[str, Any], run_id: str) -> dict[str, Any]:
    """A config whose checkpoints name their run."""
    return {**config, "metadata": {**(config.get("metadata") or {}), RUN_ID: run_id}}


def at_the_last_checkpoint(config: RunnableConfig) -> RunnableConfig:
    """A config without the checkpoint that a run began at: its own came after that one."""
    return {**config, "configurable": {**config.get("configurable", {}), "checkpoint_id": None}}


class Stopped:
    """A graph that has nothing more to do: it stopped for an answer before its worker died.

    Args:
        graph: the graph.
        snapshot: of its last checkpoint.
    """

    def __init__(self, graph: Graph, snapshot: StateSnapshot) -> None:
        self._graph = graph
        self._values = snapshot.values
        self._interrupts: tuple[Interrupt, ...] = snapshot.interrupts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._graph, name)

    async def astream(self, _input: Any, _config: RunnableConfig, **options: Any) -> AsyncIterator[Any]:
        """What the graph said last: its values, and what it asks."""
        said = {"values": self._values, "updates": {INTERRUPT: self._interrupts}}
        for mode, data in said.items():
            if mode not in options["stream_mode"]:
                continue
            if options.get("version") == "v2":
                asked = {"interrupts": self._interrupts} if mode == "values" else {}
                yield {"type": mode, "ns": (), "data": data, **asked}
            else:
                yield ((), mode, data) if options.get("subgraphs") else (mode, data)


async def progress_of(
    graph: Graph, config: RunnableConfig, run_id: str, arguments: Mapping[str, Any]
) -> Graph | Stopped | None:
    """What goes on with a run: the graph, from the last checkpoint of its thread.

    Args:
        graph: with its checkpointer.
        config: of the run, with its thread and without a checkpoint.
        run_id: of the run, whose checkpoints are marked.
        arguments: of the run's request; its breakpoints go before the graph's own.

    Returns:
        The graph, one that has stopped already, or None if nothing of the run was kept: it has to begin again.
    """
    if not [snapshot async for snapshot in graph.aget_state_history(config, filter={RUN_ID: run_id}, limit=1)]:
        return None
    latest = await graph.aget_state(config)
    own = (latest.metadata or {}).get(RUN_ID) == run_id
    return Stopped(graph, latest) if own and await _has_stopped(graph, latest, arguments) else graph


async def _has_stopped(graph: Graph, latest: StateSnapshot, arguments: Mapping[str, Any]) -> bool:
    # LangGraph takes a `None` as the answer that such a stop waits for: nobody has given it.
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
