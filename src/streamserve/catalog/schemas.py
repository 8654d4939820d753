"""JSON schemas of chains for OpenAPI and the playgrounds, with examples and enums."""

import copy
from collections.abc import Callable
from functools import cache
from types import new_class
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, RootModel

from streamserve.catalog.registry import RegisteredChain


def with_enums(schema: type[BaseModel], chain: str, extra: Literal["allow", "ignore"]) -> type[BaseModel]:
    """Return the schema of a chain's output in the form that LangServe's chat playground understands.

    Keys outside the schema are allowed or ignored, as `extra` says.
    """
    return _derived(schema, chain, _add_enums, extra)


def _derived(
    schema: type[BaseModel],
    chain: str,
    extend: Callable[[dict[str, Any]], None],
    extra: Literal["allow", "ignore"] = "ignore",
) -> type[BaseModel]:
    """Return the same model with an extended JSON schema, in OpenAPI and alone."""

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
    members = {
        "__module__": schema.__module__,
        "model_config": config,
        "model_json_schema": classmethod(model_json_schema),
    }
    # LangServe renames a model with the name of another chain's model, and a renamed root model validates nothing.
    name = f"{chain.replace('-', '_')}_{schema.__name__}" if issubclass(schema, RootModel) else schema.__name__
    return cast(type[BaseModel], new_class(name, (schema,), exec_body=lambda namespace: namespace.update(members)))


def with_examples(schema: type[BaseModel], served: RegisteredChain) -> type[BaseModel]:
    """Return the schema of a chain's input with its examples; the first example is the default."""
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
    """Add `enum` beside `const`: pydantic writes `const`, and LangServe's chat playground looks for `enum`."""
    if isinstance(node, dict):
        if "const" in node:
            node.setdefault("enum", [node["const"]])
        for value in list(node.values()):
            _add_enums(value)
    elif isinstance(node, list):
        for value in node:
            _add_enums(value)
