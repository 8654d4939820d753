"""Encode inputs and the arguments of calls as JSON."""

import dataclasses
import json
from base64 import b64encode
from collections.abc import Set as AbstractSet
from datetime import timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import Any

import orjson
from pydantic import BaseModel

from streamserve_sdk.codec.input_types import fields_of, of_langgraph

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATACLASS


def dumps(value: Any) -> bytes:
    """Return the value as JSON, in forms that pydantic decodes on the server.

    Messages, prompts, documents and other pydantic models are dumped by all fields that they have, sets as lists,
    bytes in base64, Decimal as text, timedelta in seconds, dataclasses and LangGraph's commands by their fields.
    `input_types` names the types that are lost in this way.

    Args:
        value: the value to encode.

    Raises:
        TypeError: a part of the value cannot be encoded.
    """
    try:
        return orjson.dumps(value, default=_default, option=_OPTIONS)
    except TypeError as error:
        try:  # half of a UTF-16 pair, an integer above 64 bits
            return json.dumps(value, default=_default_of_json, separators=(",", ":"), allow_nan=False).encode()
        except TypeError as unknown:
            raise unknown from None
        except (ValueError, RecursionError):
            raise error from None


def _default_of_json(value: Any) -> Any:
    try:
        return _default(value)
    except TypeError:
        return orjson.loads(orjson.dumps(value, option=_OPTIONS))  # dates, enums and more


def _default(value: Any) -> Any:
    if isinstance(value, BaseModel):
        # By the values' own types, not the declared ones, and by the names that the same model accepts.
        return value.model_dump(serialize_as_any=True, by_alias=True)
    if isinstance(value, AbstractSet):
        return list(value)
    if isinstance(value, bytes | bytearray):
        return b64encode(value).decode()
    if isinstance(value, Decimal | PurePath):
        return str(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if of_langgraph(value) or dataclasses.is_dataclass(value):
        return fields_of(value)
    raise TypeError(f"{type(value).__name__} cannot be encoded as JSON")
