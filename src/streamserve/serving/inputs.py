"""The input of a chain: a request's value, validated and as the chain takes it."""

from typing import Any

from langchain_core.load import Serializable
from langchain_core.runnables import RunnableConfig
from langserve import CustomUserType
from pydantic import BaseModel

from streamserve.serving.served import ServedRunnable


def input_of(served: ServedRunnable, value: Any, config: RunnableConfig | None = None) -> Any:
    """Return the input that the chain gets for a value of a request; the config may change the schema.

    Raises:
        ValidationError: the value does not fit the schema.
    """
    return _unpacked(served.with_config(config).input_schema.model_validate(value))


def _unpacked(validated: Any) -> Any:
    # As LangServe: a model that only describes the input becomes a dict.
    value = getattr(validated, "root", validated)
    if isinstance(value, BaseModel) and not isinstance(value, Serializable | CustomUserType):
        return {name: _unpacked(getattr(value, name)) for name in type(value).model_fields}
    return value
