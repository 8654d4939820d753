"""The schemas of a chain's input and output, and a tool with the schema of the input."""

from typing import Any, cast

from langchain_core.callbacks import Callbacks
from langchain_core.runnables import Runnable
from langchain_core.runnables.config import RunnableConfig
from langchain_core.runnables.graph import Graph
from langchain_core.runnables.utils import Input, Output
from langchain_core.tools import BaseTool, StructuredTool
from pydantic import BaseModel

from streamserve_sdk.chain_client import ChainClient
from streamserve_sdk.codec.schema_models import model_of


class Schemas(Runnable[Input, Output]):
    """The part of RemoteRunnable that describes the chain, as its server does."""

    _client: ChainClient

    def get_input_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:  # noqa: ARG002
        """Return a model of the chain's input; the server is asked at the first call.

        Args:
            config: not used; the schema is that of the chain as it is served.

        Raises:
            StreamServeError: the call failed.
        """
        return model_of(self._client.schema("input_schema"), self.get_name("Input"))

    def get_output_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:  # noqa: ARG002
        """Return a model of the chain's output; arguments and errors are those of `get_input_schema`."""
        return model_of(self._client.schema("output_schema"), self.get_name("Output"))

    def get_graph(self, config: RunnableConfig | None = None) -> Graph:
        """Return the graph of this one step; the server is not asked, so that a graph can be drawn without it."""
        graph = Graph()
        nodes = [
            graph.add_node(model_of({}, self.get_name("Input"))),
            graph.add_node(self, metadata=config.get("metadata") if config else None),
            graph.add_node(model_of({}, self.get_name("Output"))),
        ]
        graph.add_edge(nodes[0], nodes[1])
        graph.add_edge(nodes[1], nodes[2])
        return graph

    def as_tool(
        self,
        args_schema: type[BaseModel] | None = None,
        *,
        name: str | None = None,
        description: str | None = None,
        arg_types: dict[str, type] | None = None,
    ) -> BaseTool:
        """Return a tool that calls the chain, with the arguments that the server names.

        Args:
            args_schema: a model of the arguments; default: the server's schema.
            name: the tool's name; default: the last part of the URL.
            description: the tool's description; default: the schema as text.
            arg_types: the arguments' types; default: those of the schema.

        Raises:
            StreamServeError: the server was asked for the schema, and the call failed.
            TypeError: the chain's input is neither a text nor an object.
        """
        name = name or self._client.name
        if not args_schema and not arg_types:
            schema = self._client.schema("input_schema")
            if schema.get("type") == "object":
                return self._tool(name, description or f"Takes {schema}.", schema)
        return super().as_tool(args_schema, name=name, description=description, arg_types=arg_types)

    def _tool(self, name: str, description: str, schema: dict[str, Any]) -> BaseTool:
        # LangChain's own way would add null for each optional argument that a model leaves out.
        def call(of_tool: RunnableConfig, callbacks: Callbacks = None, **arguments: Any) -> Any:
            return self.invoke(cast("Input", arguments), {**of_tool, "callbacks": callbacks})

        async def acall(of_tool: RunnableConfig, callbacks: Callbacks = None, **arguments: Any) -> Any:
            return await self.ainvoke(cast("Input", arguments), {**of_tool, "callbacks": callbacks})

        return StructuredTool.from_function(
            call, acall, name=name, description=description, args_schema=schema, infer_schema=False
        )
