"""Pydantic models of the JSON schemas that a server sends."""

import warnings
from typing import Any

from pydantic import BaseModel, ConfigDict, RootModel, create_model


def model_of(schema: dict[str, Any], name: str) -> type[BaseModel]:
    """Return a model with a schema and its fields; the values are checked by the server only.

    Args:
        schema: the JSON schema.
        name: the model's name if the schema has no title.
    """

    def model_json_schema(*_: Any, **__: Any) -> dict[str, Any]:
        return schema

    name = str(schema.get("title") or name)
    model: type[BaseModel] = _with_fields(schema, name) or create_model(name, __base__=RootModel[Any])
    model.model_json_schema = model_json_schema  # type: ignore[method-assign]
    return model


def _with_fields(schema: dict[str, Any], name: str) -> type[BaseModel] | None:
    # Pydantic takes no such names as fields; as extra values they pass.
    names = [name for name in schema.get("properties", {}) if not name.startswith(("_", "model_"))]
    required = schema.get("required", ())
    fields: dict[str, Any] = {
        name: (Any, ... if name in required else schema["properties"][name].get("default")) for name in names
    }
    if not fields:
        return None
    with warnings.catch_warnings():
        # A field may have the name of a method, such as `schema` or `copy`.
        warnings.filterwarnings("ignore", "Field name", UserWarning)
        return create_model(name, __config__=ConfigDict(extra="allow"), **fields)
