"""The request bodies of a thread's endpoints, and their validation with the place of each error."""

from typing import Annotated, Any, Self, TypeVar

from langchain_core.runnables import RunnableConfig
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from streamserve.errors import InvalidInput
from streamserve.errors.places import entry, invalid
from streamserve.graphs.commands import MAX_WRITES
from streamserve.http.body import ChainRequest
from streamserve.wire.input_types import decode_input_types

# Maximum states per page: each state is a whole conversation.
MAX_PAGE = 100
DEFAULT_PAGE = 10
# Maximum supersteps of one request: each makes a checkpoint of the whole state.
MAX_SUPERSTEPS = 100

# Postgres refuses a NUL in a text.
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
Name = Annotated[str, Field(pattern=r"^[^\x00]+$")]
Page = Annotated[int, Field(ge=1, le=MAX_PAGE, description="Maximum number of states.")]

Body = TypeVar("Body", bound=BaseModel)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Checkpoint(_Body):
    """A checkpoint of the thread; without an id, its latest one.

    Args:
        thread_id: the thread's id, equal to the path's. Default: None.
        checkpoint_ns: the namespace of a subgraph, as in its task's `checkpoint`. Default: None.
        checkpoint_id: the id of the checkpoint. Default: None, the latest one.
        checkpoint_map: the map of a subgraph's checkpoint, as in a state. Default: None.
    """

    thread_id: Text | None = None
    checkpoint_ns: Text | None = None
    checkpoint_id: Text | None = None
    checkpoint_map: dict[Text, Text] | None = None

    def config(self, thread_id: str) -> RunnableConfig:
        """Return the config that names this checkpoint for LangGraph."""
        named = self.model_dump(exclude_none=True)
        return {"configurable": {"checkpoint_ns": "", **named, "thread_id": thread_id}}


class StateAt(_Body):
    """The body of `POST state/checkpoint`."""

    checkpoint: Checkpoint
    subgraphs: bool = False


class Update(_Body):
    """One update of a state, with the values in place of a node's output."""

    values: Any = None
    as_node: Text | None = None
    task_id: Text | None = None


class Superstep(_Body):
    """A list of updates that are applied together."""

    updates: list[Update] = Field(min_length=1, max_length=MAX_WRITES)


class StateUpdate(Update):
    """The body of `POST state`: one update, or several supersteps of them.

    Args:
        values: the values in place of a node's output; null with `as_node` `__end__` clears the tasks. A key `types`
            beside `values` may map JSON pointers to the names of types that JSON lacks.
        as_node: the node. Default: the last node that ran, if only one did.
        task_id: the id of the node's task, as in the state's `tasks`. Default: None.
        checkpoint: the checkpoint to start from. Default: the latest one.
        checkpoint_id: the id of the checkpoint to start from, in place of `checkpoint`. Default: None.
        supersteps: several supersteps in place of one update, at most 100 of at most 20 updates. Default: None.
    """

    checkpoint: Checkpoint | None = None
    checkpoint_id: Text | None = None
    supersteps: list[Superstep] | None = Field(default=None, min_length=1, max_length=MAX_SUPERSTEPS)

    @model_validator(mode="after")
    def _is_one_or_many(self) -> Self:
        if (self.supersteps is None) == ("values" not in self.model_fields_set):
            raise ValueError("either values or supersteps")
        return self

    @property
    def place(self) -> Checkpoint:
        """The checkpoint to start from."""
        return self.checkpoint or Checkpoint(checkpoint_id=self.checkpoint_id)

    @property
    def steps(self) -> list[Superstep]:
        """The supersteps; a single update is a superstep of its own."""
        return [Superstep(updates=[self])] if self.supersteps is None else self.supersteps


class HistorySearch(_Body):
    """The body of `POST history`.

    Args:
        limit: maximum number of states. Default: 10.
        before: the checkpoint before which states are returned; the last one of a page starts the next page. Default:
            None.
        metadata: the values that a state's metadata must have. Default: None.
        checkpoint: the checkpoint of a subgraph. Default: the graph's own.
    """

    limit: Page = DEFAULT_PAGE
    before: Name | Checkpoint | None = None
    metadata: dict[str, Any] | None = None
    checkpoint: Checkpoint | None = None


async def read(request: ChainRequest, model: type[Body], thread_id: str) -> Body:
    """Return the validated body of a request.

    Raises:
        InvalidInput: The body does not fit, or names another thread.
    """
    return await request.aside(_read, await request.json(), model, thread_id)


def _read(body: Any, model: type[Body], thread_id: str) -> Body:
    if not isinstance(body, dict):
        raise invalid(("body",), "Input should be an object", "dict_type")
    if model is StateUpdate:
        _read_types(body)
    try:
        parsed = model.model_validate(body)
    except ValidationError as error:
        raise InvalidInput([entry(("body", *at["loc"]), at["msg"], at["type"]) for at in error.errors()]) from error
    for name in ("checkpoint", "before"):
        other = getattr(parsed, name, None)
        if isinstance(other, Checkpoint) and other.thread_id not in (None, thread_id):
            raise invalid(("body", name, "thread_id"), "Another thread than the path's", "value_error")
    return parsed


def _read_types(body: dict[str, Any]) -> None:
    decode_input_types(body, "values")
    supersteps = body.get("supersteps")
    for step in supersteps if isinstance(supersteps, list) else ():
        updates = step.get("updates") if isinstance(step, dict) else None
        for update in updates if isinstance(updates, list) else ():
            if isinstance(update, dict):
                decode_input_types(update, "values")
