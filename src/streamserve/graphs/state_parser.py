"""Values for the keys of a graph's state, validated by the graph's declared types."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from langgraph.channels import BinaryOperatorAggregate
from langgraph.channels.delta import DeltaChannel
from langgraph.types import Overwrite
from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import get_type_hints

from streamserve.catalog.messages import merges_messages
from streamserve.catalog.substitutes import unqualified
from streamserve.catalog.widening import with_messages
from streamserve.graphs.graph import Graph

# LangGraph's JSON form of an Overwrite.
_OVERWRITE = "__overwrite__"


class StateParser:
    """The parser of values for a graph's state; values of keys without a type are not changed."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._adapters: dict[str, TypeAdapter[Any] | None] = {}

    @cached_property
    def _hints(self) -> dict[str, Any]:
        builder = getattr(self._graph, "builder", None)
        hints: dict[str, Any] = {}
        for schema in getattr(builder, "schemas", ()):
            found = get_type_hints(schema, include_extras=True) if isinstance(schema, type) else {}
            hints = {**{name: hint for name, hint in found.items() if name in self._graph.channels}, **hints}
        return hints

    @cached_property
    def _keys(self) -> frozenset[str]:
        # The graph's channels are more: its inputs, its branches and its tasks.
        builder = getattr(self._graph, "builder", None)
        return frozenset([*getattr(builder, "channels", ()), *getattr(builder, "managed", ())])

    def read_update(self, pairs: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
        """Return the pairs of an update with their types.

        Raises:
            ValidationError: A key is not of the state, or a value does not fit; the error names the places.
        """
        given = list(pairs)
        # LangGraph takes its own keys from an update, and drops unknown ones: a typing error would never be noticed.
        if errors := [_unknown(name, value) for name, value in given if name not in self._keys]:
            raise ValidationError.from_exception_data("state", errors)
        return self.read_pairs(given)

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a state with their types.

        Raises:
            ValidationError: Values do not fit; the error names their places.
        """
        return dict(self.read_pairs(values.items()))

    def read_pairs(self, pairs: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
        """Return pairs of key and value with their types; a key may occur more than once.

        Raises:
            ValidationError: Values do not fit; the error names their places.
        """
        made: list[tuple[str, Any]] = []
        errors: list[InitErrorDetails] = []
        for name, value in pairs:
            try:
                made.append((name, self._read(name, value)))
            except ValidationError as error:
                errors += placed(error, name)
        if errors:
            raise ValidationError.from_exception_data("state", errors)
        return made

    def _read(self, name: str, value: Any) -> Any:
        adapter = self._adapter(name)
        if (
            adapter is None
            or isinstance(value, Overwrite)
            or (isinstance(value, dict) and value.keys() == {_OVERWRITE})
        ):
            return value
        try:
            return adapter.validate_python(value)
        except ValidationError:
            if self._has_own_reducer(name):
                return value  # the reducer may accept another form than the state's
            raise

    def _adapter(self, name: str) -> TypeAdapter[Any] | None:
        if name not in self._adapters:
            self._adapters[name] = _adapter(self._hints[name]) if name in self._hints else None
        return self._adapters[name]

    def _has_own_reducer(self, name: str) -> bool:
        reduces = isinstance(self._graph.channels.get(name), BinaryOperatorAggregate | DeltaChannel)
        return reduces and not merges_messages(getattr(self._hints[name], "__metadata__", ()))


def _unknown(name: str, value: Any) -> InitErrorDetails:
    """Return the error for a key that the state does not have."""
    error = PydanticCustomError("extra_forbidden", "The graph's state has no such key")
    return InitErrorDetails(type=error, loc=(name,), input=value)


def placed(error: ValidationError, *place: str | int) -> list[InitErrorDetails]:
    """Return a value's errors with `place` in front of their locations."""
    return [
        InitErrorDetails(
            type=PydanticCustomError(item["type"], "{text}", {"text": item["msg"]}),
            loc=(*place, *item["loc"]),
            input=item["input"],
        )
        for item in error.errors(include_url=False)
    ]


def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(with_messages(unqualified(hint), in_graph=True))
    except PydanticUserError:  # pydantic does not support the class
        return None
