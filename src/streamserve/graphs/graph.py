"""What only graphs have: threads, checkpoints, stream modes, and going on after an interrupt."""

from __future__ import annotations

import copy
import uuid
from typing import Annotated, Any, Literal

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.utils import ConfigurableFieldSpec
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.pregel import Pregel
from pydantic import WithJsonSchema
from typing_extensions import get_type_hints

Graph = Pregel[Any, Any, Any, Any]

INTERRUPT = "__interrupt__"
_LANGSERVE_MARKS = ("__useragent", "__langserve_")

# LangServe's playground knows no null in a config schema, neither as type nor as default.
_OptionalText = Annotated[str | None, WithJsonSchema({"type": "string"})]
# Its form shows an object badly, and sends an empty text for a field that nobody filled.
_OptionalMap = Annotated[dict[str, str] | Literal[""] | None, WithJsonSchema({"type": "string"})]

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
    # With the id of a subgraph's checkpoint: those of the graphs around it.
    ConfigurableFieldSpec(id="checkpoint_map", annotation=_OptionalMap, name="Map", description="", default=""),
]

_FIELDS = frozenset(spec.id for spec in CONFIG_SPECS)


def with_checkpointer(graph: Graph, checkpointer: BaseCheckpointSaver[Any]) -> Graph:
    """The same graph with another checkpointer."""
    # Not `graph.copy`: it loses what compiling set last, such as how version 2 makes the state's class.
    bound = copy.copy(graph)
    bound.checkpointer = checkpointer
    return bound


def with_thread(config: RunnableConfig) -> RunnableConfig:
    """A config whose run has a thread: the caller's, else one of its own."""
    configurable = config.get("configurable") or {}
    thread = configurable.get("thread_id") or str(config.get("run_id") or uuid.uuid4())
    return {"configurable": {**configurable, "thread_id": thread}}


def as_sent(config: RunnableConfig) -> RunnableConfig:
    """A config without what LangServe adds, as a graph shows it with every message: its marks and empty fields."""
    metadata, configurable = _filled(config.get("metadata", {})), _filled(config.get("configurable", {}))
    unmarked = {key: value for key, value in metadata.items() if not key.startswith(_LANGSERVE_MARKS)}
    return {**config, "metadata": unmarked, "configurable": configurable}


def _filled(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value or key not in _FIELDS}


def context_fields(graph: Graph) -> frozenset[str]:
    """The names in the schema of a graph's context, which LangGraph once called its config schema."""
    schema = graph.context_schema
    return frozenset(get_type_hints(schema)) if schema is not None else frozenset()


def keeps_messages(graph: Graph) -> bool:
    """Whether the graph's state is a conversation."""
    return "messages" in graph.channels
