"""The chunks of a stream of texts or messages, from its blocks."""

from typing import Any

import orjson
from langchain_core.messages import BaseMessage
from langserve.serialization import WellKnownLCObject
from pydantic import ValidationError


def chunk_of(data: bytes) -> str | BaseMessage | None:
    """Return the text or message in a block's JSON; None if it is neither, so that its sum is unknown."""
    value: Any = orjson.loads(data)
    if isinstance(value, str):
        return value
    try:
        found = WellKnownLCObject.model_validate(value).root
    except ValidationError:
        return None
    return found if isinstance(found, BaseMessage) else None
