"""The input of a chain: a request's value, validated and as the chain takes it."""

from collections.abc import Mapping
from typing import Any

from langchain_core.load import Serializable
from langchain_core.runnables import RunnableConfig
from langserve import CustomUserType
from pydantic import BaseModel, RootModel

from streamserve.catalog.schemas import is_derived
from streamserve.serving.served import ServedRunnable


def input_of(served: ServedRunnable, value: Any, config: RunnableConfig | None = None) -> Any:
    """Return the input that the chain gets for a value of a request; the config may change the schema.

    Raises:
        ValidationError: the value does not fit the schema.
    """
    read = _unpacked(served.with_config(config).input_schema.model_validate(value), value)
    is_free = served.graph is None and served.served.chain.input_type is None
    # A TypedDict of a step's annotation: in process, the step gets the other keys too.
    return {**value, **read} if is_free and type(read) is dict and type(value) is dict else read


def _unpacked(validated: Any, given: Any) -> Any:
    # As LangServe: a model that only describes the input becomes a dict.
    if isinstance(validated, RootModel):
        return _unpacked(validated.root, given)
    if not isinstance(validated, BaseModel) or isinstance(validated, Serializable | CustomUserType):
        return validated
    inner = given if isinstance(given, Mapping) else {}
    fields = type(validated).model_fields
    made = {name: _unpacked(getattr(validated, name), inner.get(field.alias or name)) for name, field in fields.items()}
    if not is_derived(type(validated)):
        return {**made, **(validated.__pydantic_extra__ or {})}
    # Its defaults are LangChain's notes that a key may be missing.
    return {**inner, **{fields[name].alias or name: made[name] for name in validated.model_fields_set}}
