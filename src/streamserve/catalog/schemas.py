"""JSON schemas of chains for OpenAPI and the playgrounds, with examples and enums."""

import copy
from collections.abc import Callable
from functools import cache
from types import new_class
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, RootModel, create_model

from streamserve.catalog.registry import RegisteredChain


def with_enums(schema: type[BaseModel], chain: str) -> type[BaseModel]:
    """Return the schema of a chain's output in the form that LangServe's chat playground understands."""
    return _extended(schema, chain, _add_enums)


def is_derived(schema: type[BaseModel]) -> bool:
    """Return whether LangChain made the schema, for example of a prompt's variables; nobody wrote it."""
    return schema.__module__.startswith("langchain_core.")


def mended(schema: type[BaseModel]) -> type[BaseModel]:
    """Return LangChain's schema without its mistakes, which refuse inputs that are right in process.

    A variable such as `schema` or `json` is a field `private_schema` with an alias. Where LangChain makes one schema of
    others, it loses the alias, and that an earlier step makes the variable. A step that takes anything becomes a
    field `root`.
    """
    if not is_derived(schema) or issubclass(schema, RootModel):
        return schema
    fields = schema.model_fields
    found: dict[str, Any] = {
        name: (field.annotation, Field(None, alias=own, title=field.title or own))
        for name, field in fields.items()
        if field.alias is None and (own := name.removeprefix("private_")) != name and _is_renamed(own)
    }
    takes_anything = "root" in fields and fields["root"].annotation is Any
    if not found and not takes_anything:
        return schema
    # No subclass: pydantic takes a variable of the name of a method for a field that hides it.
    others = {name: (field.annotation, field) for name, field in fields.items() if not takes_anything or name != "root"}
    return create_model(
        schema.__name__, __config__=schema.model_config, __module__=schema.__module__, **{**others, **found}
    )


def _is_renamed(variable: str) -> bool:
    return variable.startswith("_") or hasattr(BaseModel, variable)


def _extended(schema: type[BaseModel], chain: str, extend: Callable[[dict[str, Any]], None]) -> type[BaseModel]:
    """Return the same model with an extended JSON schema, in OpenAPI and alone."""

    @cache
    def document(args: tuple[Any, ...], kwargs: frozenset[tuple[str, Any]]) -> dict[str, Any]:
        # Of `schema`, not of the subclass: langchain-core's models call super(cls, cls), endless in a subclass.
        made = copy.deepcopy(schema.model_json_schema(*args, **dict(kwargs)))
        extend(made)
        return made

    def model_json_schema(_cls: type[BaseModel], *args: Any, **kwargs: Any) -> dict[str, Any]:
        return document(args, frozenset(kwargs.items()))

    members = {
        "__module__": schema.__module__,
        "model_config": ConfigDict(json_schema_extra=extend),
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

    return _extended(schema, served.name, extend)


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
