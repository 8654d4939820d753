"""Graphs: their checkpointer, their threads and their config."""

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

# Not nullable: LangServe's playground supports no null in a config schema, neither as type nor as default.
_OptionalText = Annotated[str | None, WithJsonSchema({"type": "string"})]
# A string: the playground's form shows an object badly, and sends an empty text for an empty field.
_OptionalMap = Annotated[dict[str, str] | Literal[""] | None, WithJsonSchema({"type": "string"})]

# The keys that LangGraph reads from `configurable`; without a config schema LangServe would drop them.
CONFIG_SPECS = [
    ConfigurableFieldSpec("thread_id", _OptionalText, "Thread", "The conversation.", default=""),
    ConfigurableFieldSpec("checkpoint_id", _OptionalText, "Checkpoint", "The checkpoint to resume from.", default=""),
    ConfigurableFieldSpec("checkpoint_ns", str, "Namespace", "", default=""),
    # The checkpoints of the graphs around a subgraph, for the id of a subgraph's checkpoint.
    ConfigurableFieldSpec("checkpoint_map", _OptionalMap, "Map", "", default=""),
]

_FIELDS = frozenset(spec.id for spec in CONFIG_SPECS)


def with_checkpointer(graph: Graph, checkpointer: BaseCheckpointSaver[Any]) -> Graph:
    """Return a copy of the graph with another checkpointer."""
    # Not `graph.copy`: it loses attributes that compile() sets last, such as the state's class of version 2.
    bound = copy.copy(graph)
    bound.checkpointer = checkpointer
    return bound


def with_thread(config: RunnableConfig) -> RunnableConfig:
    """Return a config with a thread: the caller's, else a new one for the run."""
    configurable = config.get("configurable") or {}
    thread = configurable.get("thread_id") or str(config.get("run_id") or uuid.uuid4())
    return {"configurable": {**configurable, "thread_id": thread}}


def as_sent(config: RunnableConfig) -> RunnableConfig:
    """Return a config without LangServe's marks and empty fields, which a graph would send with every message."""
    metadata, configurable = _filled(config.get("metadata", {})), _filled(config.get("configurable", {}))
    unmarked = {key: value for key, value in metadata.items() if not key.startswith(_LANGSERVE_MARKS)}
    return {**config, "metadata": unmarked, "configurable": configurable}


def _filled(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value or key not in _FIELDS}


def context_fields(graph: Graph) -> frozenset[str]:
    """Return the field names of a graph's context, which LangGraph used to call its config schema."""
    schema = graph.context_schema
    return frozenset(get_type_hints(schema)) if schema is not None else frozenset()


def keeps_messages(graph: Graph) -> bool:
    """Return True if the graph's state has messages."""
    return "messages" in graph.channels
