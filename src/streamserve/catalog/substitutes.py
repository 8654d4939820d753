"""Schemas for runnables that pydantic cannot describe: a graph's state key by key, else a schema of anything.

Two common states have no schema: `Annotated[NotRequired[...], ...]`, as LangChain's middleware writes it, and
`typing.TypedDict` before Python 3.12. Functions may also return objects of any class.
"""

from typing import Annotated, Any, Literal, NotRequired, Required, get_args, get_origin

from langchain_core.runnables import Runnable
from pydantic import BaseModel, PydanticUserError, RootModel, TypeAdapter, create_model
from typing_extensions import ReadOnly, TypedDict, get_type_hints

Direction = Literal["input", "output"]

_QUALIFIERS = (Required, NotRequired, ReadOnly)


def substitute(runnable: Runnable[Any, Any], direction: Direction) -> type[BaseModel]:
    """Return a schema for a runnable without one: it accepts all that the runnable accepts in process."""
    name = runnable.get_name(direction.title())
    hints = _state_hints(runnable, direction)
    if not hints:
        return create_model(name, __base__=RootModel[Any])
    fields = {key: _described(hint) for key, hint in hints.items()}
    state: Any = TypedDict(name, fields, total=False)  # type: ignore[misc]  # a computed name
    return create_model(name, __base__=RootModel[state])


def unqualified(hint: Any) -> Any:
    """Return a hint without `Required`, `NotRequired` and `ReadOnly`, also where an `Annotated` is around them."""
    if hasattr(hint, "__metadata__"):
        return Annotated[(unqualified(get_args(hint)[0]), *hint.__metadata__)]
    return unqualified(get_args(hint)[0]) if get_origin(hint) in _QUALIFIERS else hint


def _state_hints(runnable: Runnable[Any, Any], direction: Direction) -> dict[str, Any]:
    state = getattr(getattr(runnable, "builder", None), f"{direction}_schema", None)  # of a compiled StateGraph
    return get_type_hints(state, include_extras=True) if isinstance(state, type) else {}


def _described(hint: Any) -> Any:
    bare = unqualified(hint)
    try:
        TypeAdapter(bare).json_schema()
    except PydanticUserError:
        return Any
    return bare
