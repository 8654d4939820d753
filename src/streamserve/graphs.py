"""What only graphs have: threads, checkpoints, stream modes, and going on after an interrupt."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar, cast

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.utils import AddableDict, ConfigurableFieldSpec
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.pregel import Pregel
from langgraph.types import Command
from pydantic import BaseModel, RootModel, ValidationInfo, model_validator

from streamserve.chain import StreamMode

Graph = Pregel[Any, Any, Any, Any]

INTERRUPT = "__interrupt__"

# What LangGraph itself reads from `configurable`; LangServe knows no config schema of graphs and drops it.
CONFIG_SPECS = [
    ConfigurableFieldSpec(
        id="thread_id", annotation=str | None, name="Thread", description="The conversation.", default=None
    ),
    ConfigurableFieldSpec(
        id="checkpoint_id",
        annotation=str | None,
        name="Checkpoint",
        description="Where to go on.",
        default=None,
    ),
    ConfigurableFieldSpec(id="checkpoint_ns", annotation=str, name="Namespace", description="", default=""),
]


def with_checkpointer(graph: Graph, checkpointer: BaseCheckpointSaver[Any]) -> Graph:
    """The graph with the server's checkpointer, unless it brought its own."""
    return graph if graph.checkpointer is not None else graph.copy({"checkpointer": checkpointer})


def with_thread(config: RunnableConfig) -> RunnableConfig:
    """A config whose run has a thread: the caller's, else one of its own."""
    configurable = config.get("configurable") or {}
    thread = configurable.get("thread_id") or str(config.get("run_id") or uuid.uuid4())
    return {"configurable": {**configurable, "thread_id": thread}}


def keeps_messages(graph: Graph) -> bool:
    """Whether the graph's state is a conversation."""
    return "messages" in graph.channels


def input_model(schema: type[BaseModel]) -> type[BaseModel]:
    """What a graph accepts: its state, `null` to go on, or a Command as JSON.

    A command is `{"__type__": "command", "resume": ..., "update": ..., "goto": ...}`.
    """

    class GraphInput(RootModel[Any]):
        state: ClassVar[type[BaseModel]] = schema

        @model_validator(mode="before")
        @classmethod
        def _read(cls, value: Any, _info: ValidationInfo) -> Any:
            if value is None or isinstance(value, Command):
                return value
            if isinstance(value, dict) and value.get("__type__") == "command":
                return command(value)
            return schema.model_validate(value)

        @classmethod
        def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
            return schema.model_json_schema(*args, **kwargs)

    return GraphInput


def command(value: dict[str, Any]) -> Command[Any]:
    """A Command from its JSON form.

    Raises:
        ValueError: it has a field that a Command from outside may not have.
    """
    unknown = set(value) - {"__type__", "resume", "update", "goto"}
    if unknown:
        raise ValueError(f"a command has resume, update and goto, not {', '.join(sorted(unknown))}")
    return Command(resume=value.get("resume"), update=value.get("update"), goto=value.get("goto") or ())


async def astream(
    graph: Graph, input: Any, config: RunnableConfig, modes: Sequence[StreamMode] | StreamMode | None
) -> AsyncIterator[Any]:
    """A graph's stream in the modes asked for; by default the message chunks, then the interrupt if it stops for one.

    Args:
        graph: with a checkpointer if it can stop.
        input: state, Command or None.
        config: with a thread.
        modes: as for `CompiledStateGraph.astream`; None for the default of a graph that keeps messages.
    """
    if modes is not None:
        mode = modes if isinstance(modes, str) else list(modes)
        async for chunk in graph.astream(input, config, stream_mode=mode):
            yield chunk
        return
    both: list[StreamMode] = ["messages", "updates"]
    async for kind, chunk in cast(AsyncIterator[tuple[str, Any]], graph.astream(input, config, stream_mode=both)):
        if kind == "messages":
            yield chunk[0]
        elif INTERRUPT in chunk:
            yield AddableDict({INTERRUPT: list(chunk[INTERRUPT])})
