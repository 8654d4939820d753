"""What is asked of a thread: the bodies of its endpoints, checked, with the place of what does not fit."""

from __future__ import annotations

from typing import Annotated, Any, Self, TypeVar

from fastapi import Request
from langchain_core.runnables import RunnableConfig
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from streamserve.errors import InvalidInput
from streamserve.errors.places import entry, invalid
from streamserve.wire.input_types import decode_input_types

# Each state of a page is a whole conversation.
MAX_PAGE = 100
DEFAULT_PAGE = 10

# Postgres keeps no NUL in a text.
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
Name = Annotated[str, Field(pattern=r"^[^\x00]+$")]
Page = Annotated[int, Field(ge=1, le=MAX_PAGE, description="The most states to return.")]

Asked = TypeVar("Asked", bound=BaseModel)


class Checkpoint(BaseModel):
    """A checkpoint of the thread; without an id, its latest one.

    Args:
        thread_id: may repeat the one of the path.
        checkpoint_ns: of a subgraph, as its task's `checkpoint` has it.
        checkpoint_id: of the checkpoint.
        checkpoint_map: of a subgraph's checkpoint, as a state has it.
    """

    model_config = ConfigDict(extra="forbid")

    thread_id: Text | None = None
    checkpoint_ns: Text | None = None
    checkpoint_id: Text | None = None
    checkpoint_map: dict[Text, Text] | None = None

    def config(self, thread_id: str) -> RunnableConfig:
        """The config that LangGraph takes."""
        named = self.model_dump(exclude_none=True)
        return {"configurable": {"checkpoint_ns": "", **named, "thread_id": thread_id}}


class StateAt(BaseModel):
    """The body of `POST state/checkpoint`."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: Checkpoint
    subgraphs: bool = False


class Update(BaseModel):
    """One update: values as if a node had returned them."""

    model_config = ConfigDict(extra="forbid")

    values: Any = None
    as_node: Text | None = None
    task_id: Text | None = None


class Superstep(BaseModel):
    """Updates that are applied together."""

    model_config = ConfigDict(extra="forbid")

    updates: list[Update] = Field(min_length=1)


class StateUpdate(Update):
    """The body of `POST state`: one update, or several supersteps of them.

    Args:
        values: what the node would have returned; null with `as_node` `__end__` clears the tasks. Beside them, `types`
            may map JSON pointers to the names of types that JSON has not.
        as_node: the node; default: the last one that ran, if only one did.
        task_id: of the node's task, as the state's `tasks` have it.
        checkpoint: where to begin; default: at the latest.
        checkpoint_id: short for `checkpoint`.
        supersteps: instead of one update.
    """

    checkpoint: Checkpoint | None = None
    checkpoint_id: Text | None = None
    supersteps: list[Superstep] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _is_one_or_many(self) -> Self:
        if (self.supersteps is None) == ("values" not in self.model_fields_set):
            raise ValueError("either values or supersteps")
        return self

    @property
    def place(self) -> Checkpoint:
        """Where to begin."""
        return self.checkpoint or Checkpoint(checkpoint_id=self.checkpoint_id)

    @property
    def steps(self) -> list[Superstep]:
        """The supersteps; one update is one of one."""
        return [Superstep(updates=[self])] if self.supersteps is None else self.supersteps


class HistorySearch(BaseModel):
    """The body of `POST history`.

    Args:
        limit: the most states to return.
        before: only states before this checkpoint; the last one of a page begins the next.
        metadata: only states whose metadata have these values.
        checkpoint: of a subgraph; default: the graph's own.
    """

    model_config = ConfigDict(extra="forbid")

    limit: Page = DEFAULT_PAGE
    before: Name | Checkpoint | None = None
    metadata: dict[str, Any] | None = None
    checkpoint: Checkpoint | None = None


async def read(request: Request, model: type[Asked], thread_id: str) -> Asked:
    """The body of a request.

    Args:
        request: one that our route class made: its parser refuses what is no JSON.
        model: of the body.
        thread_id: of the path.

    Raises:
        InvalidInput: it does not fit, or speaks of another thread.
    """
    body = await request.json()
    if not isinstance(body, dict):
        raise invalid(("body",), "Input should be an object", "dict_type")
    if model is StateUpdate:
        _read_types(body)
    try:
        asked = model.model_validate(body)
    except ValidationError as error:
        raise InvalidInput([entry(("body", *at["loc"]), at["msg"], at["type"]) for at in error.errors()]) from error
    for name in ("checkpoint", "before"):
        other = getattr(asked, name, None)
        if isinstance(other, Checkpoint) and other.thread_id not in (None, thread_id):
            raise invalid(("body", name, "thread_id"), "Another thread than the path's", "value_error")
    return asked


def _read_types(body: dict[str, Any]) -> None:
    decode_input_types(body, "values")
    supersteps = body.get("supersteps")
    for step in supersteps if isinstance(supersteps, list) else ():
        updates = step.get("updates") if isinstance(step, dict) else None
        for update in updates if isinstance(updates, list) else ():
            if isinstance(update, dict):
                decode_input_types(update, "values")
