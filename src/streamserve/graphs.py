"""What only graphs have: threads, checkpoints, stream modes, and going on after an interrupt."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any, ClassVar, cast

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.utils import AddableDict, ConfigurableFieldSpec
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.pregel import Pregel
from langgraph.types import Command
from pydantic import BaseModel, RootModel, ValidationInfo, WithJsonSchema, model_validator

from streamserve.chain import StreamMode

Graph = Pregel[Any, Any, Any, Any]

INTERRUPT = "__interrupt__"
OUTPUT_MODES: tuple[StreamMode, ...] = ("updates", "values")

# LangServe's playground knows no null in a config schema, neither as type nor as default.
_OptionalText = Annotated[str | None, WithJsonSchema({"type": "string"})]

# What LangGraph itself reads from `configurable`; LangServe knows no config schema of graphs and drops it.
CONFIG_SPECS = [
    ConfigurableFieldSpec(
        id="thread_id", annotation=_OptionalText, name="Thread", description="The conversation.", default=""
    ),
    ConfigurableFieldSpec(
        id="checkpoint_id",
        annotation=_OptionalText,
        name="Checkpoint",
        description="Where to go on.",
        default="",
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
    checkpoint = configurable.get("checkpoint_id") or None
    return {"configurable": {**configurable, "thread_id": thread, "checkpoint_id": checkpoint}}


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
            state = schema.model_validate(value)
            # LangServe unwraps one root model; the schema of a TypedDict state is one too.
            return state.root if isinstance(state, RootModel) else state

        @classmethod
        def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
            return schema.model_json_schema(*args, **kwargs)

    return GraphInput


def command(value: dict[str, Any]) -> Command[Any]:
    """A Command from its JSON form.

    Raises:
        ValueError: it has a field that a Command from outside may not have, or one of a wrong type.
    """
    unknown = set(value) - {"__type__", "resume", "update", "goto"}
    if unknown:
        raise ValueError(f"a command has resume, update and goto, not {', '.join(sorted(unknown))}")
    goto, update = value.get("goto") or [], value.get("update")
    nodes = [goto] if isinstance(goto, str) else goto
    if not isinstance(nodes, list) or not all(isinstance(node, str) for node in nodes):
        raise ValueError("goto is the name of a node or a list of names")
    if not isinstance(update, dict | None):
        raise ValueError("update is an object")
    return Command(resume=value.get("resume"), update=update, goto=nodes)


async def astream(
    graph: Graph,
    input: Any,
    config: RunnableConfig,
    modes: Sequence[StreamMode] | StreamMode | None,
    on_output: Callable[[Any], None],
) -> AsyncIterator[Any]:
    """A graph's stream in the modes asked for; by default its message chunks, then the interrupt if it stops for one.

    Args:
        graph: with a checkpointer if it can stop.
        input: state, Command or None.
        config: with a thread.
        modes: as for `CompiledStateGraph.astream`; None for the default of a graph that keeps messages.
        on_output: called at the end with what `ainvoke` would have returned.
    """
    asked: list[StreamMode] = ["messages"] if modes is None else [modes] if isinstance(modes, str) else list(modes)
    # What `ainvoke` returns is the last of `values`, and the interrupts of `updates`.
    every = [*asked, *(mode for mode in OUTPUT_MODES if mode not in asked)]
    latest: Any = None
    interrupts: list[Any] = []
    async for kind, chunk in cast(
        AsyncIterator[tuple[StreamMode, Any]], graph.astream(input, config, stream_mode=every)
    ):
        if kind == "values":
            latest = chunk
        elif kind == "updates" and INTERRUPT in chunk:
            interrupts += chunk[INTERRUPT]
            if modes is None:
                yield AddableDict({INTERRUPT: list(chunk[INTERRUPT])})
        if kind in asked:
            yield chunk[0] if modes is None else chunk if isinstance(modes, str) else (kind, chunk)
    on_output({**latest, INTERRUPT: interrupts} if interrupts and isinstance(latest, dict) else latest)
