"""The input of a graph: its state, null to resume, or a Command."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from langgraph.types import Command
from pydantic import BaseModel, RootModel, model_validator
from typing_extensions import get_type_hints, is_typeddict

from streamserve.catalog.widening import with_messages
from streamserve.graphs.commands import Commands, is_command
from streamserve.graphs.graph import Graph
from streamserve.graphs.state_values import StateValues


def input_model(schema: type[BaseModel], graph: Graph) -> type[BaseModel]:
    """Return the model that validates the input of a graph."""
    values = StateValues(graph)
    commands = Commands(graph, values)
    parser = _StateParser(schema, values)

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


class _StateParser:
    """The parser of a state, into the form that a graph takes in process: a dict of the given keys."""

    def __init__(self, schema: type[BaseModel], values: StateValues) -> None:
        self.model: type[BaseModel] = with_messages(schema, in_graph=True)
        self._values = values
        root: Any = schema.model_fields["root"].annotation if issubclass(schema, RootModel) else None
        self._keys: Collection[str] = get_type_hints(root) if is_typeddict(root) else ()

    def parse(self, value: Any) -> Any:
        # A TypedDict's keys are keys of an update, and LangGraph requires none; a model is validated as a whole.
        given = {name: value[name] for name in self._keys if name in value} if isinstance(value, Mapping) else {}
        if given:
            return self._values.read(given)
        read = self.model.model_validate(value)
        return _as_update(read.root if isinstance(read, RootModel) else read, value)


def _as_update(state: Any, value: Any) -> Any:
    # Only the given keys: a default would reset the state's value.
    if isinstance(state, BaseModel):
        return {name: getattr(state, name) for name in type(state).model_fields if name in state.model_fields_set}
    if dataclasses.is_dataclass(state) and isinstance(value, Mapping):
        return {field.name: getattr(state, field.name) for field in dataclasses.fields(state) if field.name in value}
    return state
