"""The input of a graph: its state, null to resume, or a Command."""

import dataclasses
from collections.abc import Collection, Mapping
from functools import cached_property, lru_cache
from typing import Any, ClassVar, NamedTuple

from langgraph.types import Command
from pydantic import BaseModel, RootModel, ValidationError, model_validator
from typing_extensions import get_type_hints, is_typeddict

from streamserve.catalog.chain import Chain
from streamserve.catalog.widening import with_messages, without_required
from streamserve.errors.places import Place
from streamserve.graphs.commands import Commands, is_command
from streamserve.graphs.graph import Graph
from streamserve.graphs.state_parser import StateParser


def input_model(schema: type[BaseModel], graph: Graph) -> type[BaseModel]:
    """Return the model that validates the input of a graph."""
    values = StateParser(graph)
    commands = Commands(graph, values)
    parser = _StateParser(schema, values, _state_of(graph))

    class GraphInput(RootModel[Any]):
        state: ClassVar[type[BaseModel]] = parser.model

        @model_validator(mode="before")
        @classmethod
        def _read(cls, value: Any) -> Any:
            if value is None or isinstance(value, Command):
                return value
            return commands.read(value) if is_command(value, graph) else parser.parse(value)

        @classmethod
        def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
            return schema.model_json_schema(*args, **kwargs)

    return GraphInput


class Given(NamedTuple):
    """An input of a graph.

    Args:
        value: the input, as JSON or as the graph takes it.
        place: its place in the request.
        missing: the required keys of the state that it does not name, so that the thread must have them.
    """

    value: Any
    place: Place
    missing: Collection[str]


def given(graph: Graph, chain: Chain, value: Any, place: Place) -> Given:
    """Return an input with the keys that it leaves to its thread.

    LangGraph makes the state for each node of all values of the thread, so a later turn may name only what is new.
    """
    state, declared = _state_of(graph), chain.input_type
    is_whole = declared is not None and not _is_a(declared, state)
    if is_whole or not isinstance(value, Mapping) or is_command(value, graph):
        return Given(value, place, ())
    required = _required(state)
    return Given(value, place, [key for key, names in required.items() if names.isdisjoint(value)])


def _state_of(graph: Graph) -> Any:
    builder = getattr(graph, "builder", None)
    state = getattr(builder, "state_schema", None)
    # An input schema of its own is the author's wish, and is required as a whole; so is the record's input type.
    return state if getattr(builder, "input_schema", None) is state else None


def _is_a(kind: Any, state: Any) -> bool:
    return isinstance(kind, type) and isinstance(state, type) and not is_typeddict(state) and issubclass(kind, state)


@lru_cache
def _required(state: Any) -> dict[str, set[Any]]:
    """Return the required keys of a model or a dataclass, each with the names that JSON may have for it."""
    if isinstance(state, type) and issubclass(state, BaseModel):
        fields = state.model_fields
        return {key: {key, one.alias, one.validation_alias} for key, one in fields.items() if one.is_required()}
    none = dataclasses.MISSING
    fields_of = dataclasses.fields(state) if dataclasses.is_dataclass(state) else ()
    return {one.name: {one.name} for one in fields_of if one.init and one.default is one.default_factory is none}


class _StateParser:
    """The parser of a state, into the form that a graph takes in process: a dict of the given keys."""

    def __init__(self, schema: type[BaseModel], values: StateParser, state: Any) -> None:
        self.model: type[BaseModel] = with_messages(schema, in_graph=True)
        self._values = values
        root: Any = schema.model_fields["root"].annotation if issubclass(schema, RootModel) else None
        self._keys: Collection[str] = get_type_hints(root) if is_typeddict(root) else ()
        self._is_own = _is_a(root or schema, state)
        self._state = state

    def parse(self, value: Any) -> Any:
        # A TypedDict's keys are keys of an update, and LangGraph requires none; a model is validated as a whole.
        given = {name: value[name] for name in self._keys if name in value} if isinstance(value, Mapping) else {}
        if given:
            return self._values.read(given)
        try:
            read = self.model.model_validate(value)
        except ValidationError:
            if self._is_own and isinstance(value, Mapping) and (part := self._part(value)):
                return part
            raise
        return _as_update(read.root if isinstance(read, RootModel) else read, value)

    def _part(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """Return the given keys of a state that may lack required ones."""
        if dataclasses.is_dataclass(self._state):
            names = {field.name for field in dataclasses.fields(self._state)}
            return self._values.read({name: item for name, item in value.items() if name in names})
        try:
            return dict(_as_update(self._partial.model_validate(value), value))
        except Exception as error:
            # A validator of the whole state may need what only the thread has.
            if isinstance(error, ValidationError) and any(at["loc"] for at in error.errors()):
                raise
            fields = self._state.model_fields
            return self._values.read({name: item for name, item in value.items() if name in fields})

    @cached_property
    def _partial(self) -> type[BaseModel]:
        return without_required(self.model)


def _as_update(state: Any, value: Any) -> Any:
    # Only the given keys: a default would reset the state's value.
    if isinstance(state, BaseModel):
        return {name: getattr(state, name) for name in type(state).model_fields if name in state.model_fields_set}
    if dataclasses.is_dataclass(state) and isinstance(value, Mapping):
        return {field.name: getattr(state, field.name) for field in dataclasses.fields(state) if field.name in value}
    return state
