"""Decode the states of a thread: into langgraph's own classes if it is installed, else into classes that look alike."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from langchain_core.runnables.config import RunnableConfig

from streamserve_sdk.codec.serializer import Serializer, WireSerializer
from streamserve_sdk.errors import ProtocolError


class Interrupt(NamedTuple):
    """A question of a graph; the fields are those of `langgraph.types.Interrupt`."""

    value: Any
    id: str
    response_schema: Any = None


class PregelTask(NamedTuple):
    """A task of a step; the fields are those of `langgraph.types.PregelTask`."""

    id: str
    name: str
    path: tuple[Any, ...]
    error: Any = None
    interrupts: tuple[Any, ...] = ()
    state: Any = None
    result: Any = None


class StateSnapshot(NamedTuple):
    """A graph's state at a checkpoint; the fields are those of `langgraph.types.StateSnapshot`."""

    values: Any
    next: tuple[str, ...]
    config: RunnableConfig
    metadata: Any
    created_at: str | None
    parent_config: RunnableConfig | None
    tasks: tuple[PregelTask, ...]
    interrupts: tuple[Any, ...]


def snapshot(serializer: Serializer, state: Any) -> StateSnapshot:
    """Return the snapshot in an answer.

    Args:
        serializer: the serializer of the values.
        state: LangGraph's `ThreadState` as parsed JSON, with the types beside it.

    Raises:
        ProtocolError: the value is not a state.
    """
    try:
        return _snapshot(_decoded(serializer, state))
    except (AttributeError, KeyError, TypeError) as error:
        raise ProtocolError("a state of a thread lacks fields") from error


def empty(config: RunnableConfig) -> StateSnapshot:
    """Return langgraph's state of a thread or checkpoint that does not exist.

    Args:
        config: the caller's config.
    """
    made: StateSnapshot = _kind("StateSnapshot", StateSnapshot)({}, (), config, None, None, None, (), ())
    return made


def config_of(checkpoint: Any) -> RunnableConfig | None:
    """Return the config that names a checkpoint."""
    return {"configurable": checkpoint} if checkpoint else None


def _snapshot(state: dict[str, Any]) -> StateSnapshot:
    made: StateSnapshot = _kind("StateSnapshot", StateSnapshot)(
        values=state["values"],
        next=tuple(state["next"]),
        config=config_of(state["checkpoint"]),
        metadata=state["metadata"],
        created_at=state["created_at"],
        parent_config=config_of(state["parent_checkpoint"]),
        tasks=tuple(map(_task, state["tasks"])),
        interrupts=tuple(map(interrupt, state["interrupts"])),
    )
    return made


def _decoded(serializer: Serializer, state: dict[str, Any]) -> Any:
    types = state.get("types")
    if types and isinstance(serializer, WireSerializer):
        return serializer.loadd(state, types)
    return serializer.loadd(state)


def _task(task: dict[str, Any]) -> Any:
    return _kind("PregelTask", PregelTask)(
        id=task["id"],
        name=task["name"],
        path=_tuples(task["path"]),
        error=task["error"],
        interrupts=tuple(map(interrupt, task["interrupts"])),
        state=_snapshot(task["state"]) if task["state"] else config_of(task["checkpoint"]),
        result=task["result"],
    )


def interrupt(value: Any) -> Any:
    """Return a question of parsed JSON as an `Interrupt`, and any other value unchanged."""
    return _kind("Interrupt", Interrupt)(**value) if isinstance(value, dict) else value


def _tuples(path: Any) -> Any:
    return tuple(map(_tuples, path)) if isinstance(path, list) else path


def _kind(name: str, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    try:
        found: Callable[..., Any] = getattr(import_module("langgraph.types"), name)
    except ImportError:
        return otherwise
    return found
