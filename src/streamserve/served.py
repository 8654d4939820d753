"""The runnable that LangServe sees: the declared chain with its schemas, the caller's keyword arguments and phases."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import new_class
from typing import Any, Literal, cast

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.utils import ConfigurableFieldSpec
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.pregel import Pregel
from pydantic import BaseModel, ConfigDict, RootModel

from streamserve import graphs
from streamserve.chain import StreamMode
from streamserve.registry import RegisteredChain


@dataclass(slots=True)
class Call:
    """One request's way through LangServe, which passes neither keyword arguments nor the place of a failure."""

    kwargs: dict[str, Any] = field(default_factory=dict)
    phase: Literal["input", "chain", "output"] = "input"


current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)


class ServedRunnable(RunnableBindingBase[Any, Any]):
    """A binding around the declared chain; LangServe calls it, the chain runs unchanged."""

    served: RegisteredChain

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> ServedRunnable:
        """Keeps `served`, which the base class would lose."""
        return self.model_copy(update={"config": self._merge_configs(config, RunnableConfig(**kwargs))})  # type: ignore[typeddict-item]

    @property
    def graph(self) -> graphs.Graph | None:
        """The graph, if it is one."""
        return self.bound if isinstance(self.bound, Pregel) else None

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """The chain's configurable fields; a graph's are its thread and checkpoint."""
        return [*self.bound.config_specs, *(graphs.CONFIG_SPECS if self.graph else ())]

    def get_input_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """The chain's input schema with the declared examples, which the playground takes as defaults."""
        schema = cast(type[BaseModel], super().get_input_schema(config))
        return _with_examples(schema, list(self.served.chain.examples)) if self.served.chain.examples else schema

    @property
    def input_schema(self) -> type[BaseModel]:
        """What requests are validated against: for a graph also None and commands."""
        schema = cast(type[BaseModel], super().input_schema)
        return graphs.input_model(schema) if self.graph else schema

    def get_output_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """The chain's output schema in the form that the chat playground understands."""
        # An interrupted graph's output has a key that its state has not.
        schema = cast(type[BaseModel], super().get_output_schema(config))
        return _derived(schema, _add_enums, "allow" if self.graph else "ignore")

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """As the chain, marking where in the request a failure happens."""
        with _in_chain():
            return await super().ainvoke(input, config, **kwargs)

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """As the chain, marking where in the request a failure happens."""
        with _in_chain():
            return await super().abatch(inputs, config, return_exceptions=return_exceptions, **kwargs)

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        """As the chain; a graph streams in the modes of the request."""
        graph = self.graph
        if graph is None:
            async for chunk in super().astream(input, config, **kwargs):
                yield chunk
            return
        call = current_call.get()
        modes = (call.kwargs if call else {}).get("stream_mode") or self._default_modes(graph)
        async for chunk in graphs.astream(graph, input, self._merge_configs(config), modes):
            yield chunk

    def _default_modes(self, graph: graphs.Graph) -> StreamMode | None:
        return None if graphs.keeps_messages(graph) else self.served.chain.stream_modes[0]


def serve(entry: RegisteredChain, checkpointer: BaseCheckpointSaver[Any]) -> ServedRunnable:
    """The runnable to mount for a registered chain."""
    if isinstance(entry.runnable, Pregel):
        graph = graphs.with_checkpointer(entry.runnable, checkpointer)
        return ServedRunnable(bound=graph, served=entry, config_factories=[graphs.with_thread])
    return ServedRunnable(bound=entry.runnable, served=entry)


class _in_chain:  # noqa: N801 - a context manager reads as a verb
    """Marks the time in which the chain itself runs."""

    def __enter__(self) -> None:
        self.call = current_call.get() or Call()
        self.call.phase = "chain"

    def __exit__(self, kind: object, *_rest: object) -> None:
        if kind is None:
            self.call.phase = "output"


def _derived(
    schema: type[BaseModel],
    extend: Callable[[dict[str, Any]], None],
    extra: Literal["allow", "ignore"] = "ignore",
) -> type[BaseModel]:
    """The same model with an extended JSON schema, both in OpenAPI and by itself."""

    def model_json_schema(_cls: type[BaseModel], *args: Any, **kwargs: Any) -> dict[str, Any]:
        # Of `schema`, not of the subclass: langchain-core's models call super(cls, cls), endless in a subclass.
        document = copy.deepcopy(schema.model_json_schema(*args, **kwargs))
        extend(document)
        return document

    config = ConfigDict(json_schema_extra=extend)
    if not issubclass(schema, RootModel):
        config["extra"] = extra
    members = {"model_config": config, "model_json_schema": classmethod(model_json_schema)}
    return cast(type[BaseModel], new_class(schema.__name__, (schema,), exec_body=_filler(schema, members)))


def _filler(schema: type[BaseModel], members: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda namespace: namespace.update({"__module__": schema.__module__, **members})


def _with_examples(schema: type[BaseModel], examples: list[Any]) -> type[BaseModel]:
    def extend(document: dict[str, Any]) -> None:
        document["examples"] = examples
        first = examples[0] if isinstance(examples[0], dict) else {}
        for name, value in first.items():
            document.get("properties", {}).get(name, {}).setdefault("default", value)

    return _derived(schema, extend)


def _add_enums(node: Any) -> None:
    """Adds `enum` beside `const`: LangServe's chat playground looks for the one, pydantic writes the other."""
    if isinstance(node, dict):
        if "const" in node:
            node.setdefault("enum", [node["const"]])
        for value in list(node.values()):
            _add_enums(value)
    elif isinstance(node, list):
        for value in node:
            _add_enums(value)
