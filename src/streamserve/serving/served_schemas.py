"""The schemas of a served chain: of inputs, requests, configs and outputs."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.base import RunnableBindingBase
from langgraph.pregel import Pregel
from pydantic import BaseModel, PrivateAttr, PydanticUserError

from streamserve.catalog.registry import RegisteredChain
from streamserve.catalog.schemas import mended, with_enums, with_examples
from streamserve.catalog.substitutes import Direction, substitute
from streamserve.catalog.widening import with_messages
from streamserve.graphs import graph as graphs
from streamserve.graphs import input as graph_input


class ServedSchemas(RunnableBindingBase[Any, Any]):
    """A binding around the declared chain with the schemas that callers see."""

    served: RegisteredChain
    _schemas: dict[str, type[BaseModel]] = PrivateAttr(default_factory=dict)
    _substitutes: dict[str, type[BaseModel]] = PrivateAttr(default_factory=dict)

    def model_post_init(self, _context: Any) -> None:
        """Find substitutes for schemas that cannot be made."""
        self._substitute("input", self.custom_input_type)
        self._substitute("output", self.custom_output_type)

    @cached_property
    def _is_configurable(self) -> bool:
        # The fields take 8 % of a short request to find.
        return bool(self.bound.config_specs)

    @cached_property
    def graph(self) -> graphs.Graph | None:
        """The graph, or None if the chain is not a graph."""
        return self.bound if isinstance(self.bound, Pregel) else None

    def _substitute(self, direction: Direction, declared: Any) -> None:
        try:
            getattr(super(), f"get_{direction}_schema")().model_json_schema()
        except PydanticUserError:
            if declared is not None:
                raise
            self._substitutes[direction] = substitute(self.bound, direction)

    def get_input_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """Return the chain's input schema with the declared examples, which the playground shows as defaults."""
        return self._schema("input", lambda: self._make_input_schema(config))

    @property
    def input_schema(self) -> type[BaseModel]:
        """The schema of requests: messages in any form, and for a graph also None and commands."""
        return self._schema("request", self._make_request_schema)

    @cached_property
    def config_model(self) -> type[BaseModel]:
        """The schema of a request's config: its configurable fields."""
        return self.config_schema(include=["configurable"])

    @property
    def request_schemas(self) -> tuple[type[BaseModel], type[BaseModel]]:
        """The schemas of one input and of one config, which tell the places of errors."""
        return self.input_schema, self.config_model

    def get_output_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """Return the chain's output schema in the form that the chat playground understands."""
        return self._schema("output", lambda: self._make_output_schema(config))

    def _schema(self, name: str, make: Callable[[], type[BaseModel]]) -> type[BaseModel]:
        # Every request needs one, and making it takes milliseconds; only a configurable chain's can differ.
        if self._is_configurable:
            return make()
        schemas = self._schemas
        if name not in schemas:
            schemas[name] = make()
        return schemas[name]

    def _make_request_schema(self) -> type[BaseModel]:
        schema = self.get_input_schema()
        if self.graph is not None:
            return graph_input.input_model(schema, self.graph)
        return cast(type[BaseModel], with_messages(schema, in_graph=False))

    def _make_input_schema(self, config: RunnableConfig | None) -> type[BaseModel]:
        schema = mended(self._substitutes.get("input") or cast(type[BaseModel], super().get_input_schema(config)))
        return with_examples(schema, self.served) if self.served.chain.examples else schema

    @cached_property
    def declared_output(self) -> type[BaseModel] | None:
        """The output type that the record declares; None: outputs are not checked."""
        declared = self.custom_output_type is not None
        return cast(type[BaseModel], super().get_output_schema()) if declared else None

    def _make_output_schema(self, config: RunnableConfig | None) -> type[BaseModel]:
        schema = self._substitutes.get("output") or cast(type[BaseModel], super().get_output_schema(config))
        return with_enums(schema, self.served.name)
