"""The runnable that LangServe sees: the declared chain with its schemas, the caller's keyword arguments and phases."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable
from functools import cache
from types import new_class
from typing import Any, Literal, cast

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.utils import ConfigurableFieldSpec
from langgraph.pregel import Pregel
from pydantic import BaseModel, ConfigDict, PrivateAttr, RootModel

from streamserve import graphs
from streamserve.call import Call, current_call
from streamserve.chain import StreamMode
from streamserve.checkpoints import Checkpoints
from streamserve.registry import RegisteredChain
from streamserve.serializer import keep_output


class BatchResults(Exception):
    """Results among which may be exceptions, for which LangServe's answer has no place.

    Args:
        results: outputs and exceptions, in the order of the inputs.
    """

    def __init__(self, results: list[Any]) -> None:
        self.results = results
        super().__init__("batch results")


class ServedRunnable(RunnableBindingBase[Any, Any]):
    """A binding around the declared chain; LangServe calls it, the chain runs unchanged."""

    served: RegisteredChain
    _schemas: dict[str, type[BaseModel]] = PrivateAttr(default_factory=dict)

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
        return self._schema("input", lambda: self._make_input_schema(config))

    @property
    def input_schema(self) -> type[BaseModel]:
        """What requests are validated against: for a graph also None and commands."""
        schema = self.get_input_schema()
        return self._schema("request", lambda: graphs.input_model(schema)) if self.graph else schema

    def get_output_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """The chain's output schema in the form that the chat playground understands."""
        return self._schema("output", lambda: self._make_output_schema(config))

    def _schema(self, name: str, make: Callable[[], type[BaseModel]]) -> type[BaseModel]:
        # LangServe asks at every request, and making one takes milliseconds; only a configurable chain's can differ.
        if self.bound.config_specs:
            return make()
        if name not in self._schemas:
            self._schemas[name] = make()
        return self._schemas[name]

    def _make_input_schema(self, config: RunnableConfig | None) -> type[BaseModel]:
        schema = cast(type[BaseModel], super().get_input_schema(config))
        return _with_examples(schema, self.served) if self.served.chain.examples else schema

    def _make_output_schema(self, config: RunnableConfig | None) -> type[BaseModel]:
        # An interrupted graph's output has a key that its state has not.
        schema = cast(type[BaseModel], super().get_output_schema(config))
        return _derived(schema, self.served.name, _add_enums, "allow" if self.graph else "ignore")

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
        """As the chain; if the request asks for exceptions as results, they leave in a BatchResults."""
        call = current_call.get() or Call()
        asked = bool(call.kwargs.get("return_exceptions"))
        with _in_chain():
            results = await super().abatch(inputs, config, return_exceptions=asked or return_exceptions, **kwargs)
        if asked:
            raise BatchResults(results)
        return results

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        """As the chain; a graph streams in the modes of the request."""
        call = current_call.get() or Call()
        call.phase, call.task = "chain", asyncio.current_task()
        graph = self.graph
        if graph is not None:
            modes = call.kwargs.get("stream_mode") or self._default_modes(graph)
            config = self._merge_configs(config)
            async for chunk in graphs.astream(graph, input, config, modes, keep_output):
                yield chunk
            return
        chunk = None
        async for chunk in super().astream(input, config, **kwargs):
            yield chunk
        if type(chunk) is dict:  # a snapshot: dicts that add up are AddableDicts
            keep_output(chunk)

    def _default_modes(self, graph: graphs.Graph) -> StreamMode | None:
        return None if graphs.keeps_messages(graph) else self.served.chain.stream_modes[0]


def serve(entry: RegisteredChain, checkpoints: Checkpoints | None = None) -> ServedRunnable:
    """The runnable to mount for a registered chain.

    Args:
        entry: the chain.
        checkpoints: for graphs that brought none; None: they keep nothing.
    """
    runnable, is_graph = entry.runnable, isinstance(entry.runnable, Pregel)
    if isinstance(runnable, Pregel) and checkpoints is not None:
        runnable = checkpoints.bind(runnable)
    return ServedRunnable(
        bound=runnable,
        served=entry,
        config_factories=[graphs.with_thread] if is_graph else [],
        custom_input_type=entry.chain.input_type,
        custom_output_type=entry.chain.output_type,
    )


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
    chain: str,
    extend: Callable[[dict[str, Any]], None],
    extra: Literal["allow", "ignore"] = "ignore",
) -> type[BaseModel]:
    """The same model with an extended JSON schema, both in OpenAPI and by itself."""

    @cache
    def document(args: tuple[Any, ...], kwargs: frozenset[tuple[str, Any]]) -> dict[str, Any]:
        # Of `schema`, not of the subclass: langchain-core's models call super(cls, cls), endless in a subclass.
        made = copy.deepcopy(schema.model_json_schema(*args, **dict(kwargs)))
        extend(made)
        return made

    def model_json_schema(_cls: type[BaseModel], *args: Any, **kwargs: Any) -> dict[str, Any]:
        return document(args, frozenset(kwargs.items()))

    config = ConfigDict(json_schema_extra=extend)
    if not issubclass(schema, RootModel):
        config["extra"] = extra
    members = {"model_config": config, "model_json_schema": classmethod(model_json_schema)}
    # LangServe renames a model whose name another chain has, and a renamed root model validates nothing.
    name = f"{chain.replace('-', '_')}_{schema.__name__}" if issubclass(schema, RootModel) else schema.__name__
    return cast(type[BaseModel], new_class(name, (schema,), exec_body=_filler(schema, members)))


def _filler(schema: type[BaseModel], members: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda namespace: namespace.update({"__module__": schema.__module__, **members})


def _with_examples(schema: type[BaseModel], served: RegisteredChain) -> type[BaseModel]:
    examples = list(served.chain.examples)

    def extend(document: dict[str, Any]) -> None:
        document["examples"] = examples
        first = examples[0] if isinstance(examples[0], dict) else {}
        for name, value in first.items():
            _properties(document).get(name, {}).setdefault("default", value)

    return _derived(schema, served.name, extend)


def _properties(document: dict[str, Any]) -> dict[str, Any]:
    # A graph's schema is a reference to its state's.
    name = document.get("$ref", "").rpartition("/")[2]
    fields: dict[str, Any] = document.get("$defs", {}).get(name, document).get("properties", {})
    return fields


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
