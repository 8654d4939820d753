"""The state of a thread as JSON: LangGraph's `ThreadState`, plus the types that JSON lacks."""

from collections.abc import Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.types import PregelTask, StateSnapshot
from pydantic import BaseModel, Field

from streamserve.wire.types import types_of

# The keys of a config that name a checkpoint; other keys are not sent.
CHECKPOINT_KEYS = ("thread_id", "checkpoint_ns", "checkpoint_id", "checkpoint_map")


class ThreadTask(BaseModel):
    """A task of a step, for the documentation of the API."""

    id: str
    name: str
    path: list[Any]
    error: str | None = Field(description="The class of the exception; its text may hold secrets.")
    interrupts: list[dict[str, Any]]
    checkpoint: dict[str, Any] | None = Field(description="The checkpoint of a subgraph.")
    state: "ThreadState | None" = Field(description="A subgraph's state, on request.")
    result: Any


class ThreadState(BaseModel):
    """A graph's state at one checkpoint, for the documentation of the API."""

    values: Any
    next: list[str]
    tasks: list[ThreadTask]
    metadata: dict[str, Any] | None
    created_at: str | None
    checkpoint: dict[str, Any]
    parent_checkpoint: dict[str, Any] | None
    interrupts: list[dict[str, Any]]
    types: dict[str, str] = Field(default={}, description="JSON pointer to the name of a type that JSON lacks.")


class ThreadUpdate(BaseModel):
    """The result of an update, for the documentation of the API."""

    checkpoint: dict[str, Any]


def thread_state(snapshot: StateSnapshot) -> dict[str, Any]:
    """Return a snapshot as the JSON of a thread's state."""
    state = _thread_state(snapshot)
    types = types_of(state)
    return {**state, "types": types} if types else state


def checkpoint_of(config: RunnableConfig | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the part of a config that names a checkpoint, or None."""
    configurable = (config or {}).get("configurable") or {}
    return {key: configurable[key] for key in CHECKPOINT_KEYS if key in configurable} or None


def _thread_state(snapshot: StateSnapshot) -> dict[str, Any]:
    return {
        "values": snapshot.values,
        "next": list(snapshot.next),
        "tasks": [_task(task) for task in snapshot.tasks],
        "metadata": snapshot.metadata,
        "created_at": snapshot.created_at,
        "checkpoint": checkpoint_of(snapshot.config),
        "parent_checkpoint": checkpoint_of(snapshot.parent_config),
        "interrupts": list(snapshot.interrupts),
    }


def _task(task: PregelTask) -> dict[str, Any]:
    nested = isinstance(task.state, StateSnapshot)
    return {
        "id": task.id,
        "name": task.name,
        "path": _lists(task.path),
        "error": _error_class(task.error),
        "interrupts": list(task.interrupts),
        "checkpoint": None if nested else checkpoint_of(task.state),  # type: ignore[arg-type]
        "state": _thread_state(task.state) if isinstance(task.state, StateSnapshot) else None,
        "result": task.result,
    }


def _lists(path: Any) -> Any:
    # A path is always made of tuples, so lists need no types on the wire.
    return [_lists(part) for part in path] if isinstance(path, tuple) else path


def _error_class(error: Any) -> str | None:
    # Only the class: some savers keep the exception's repr, and its text may hold secrets.
    if error is None:
        return None
    return type(error).__name__ if isinstance(error, BaseException) else str(error).partition("(")[0]
