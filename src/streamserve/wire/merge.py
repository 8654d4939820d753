"""The output of a stream: its chunks from JSON, added up."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessageChunk
from langchain_core.messages.utils import message_chunk_to_message
from langchain_core.runnables.utils import AddableDict
from langserve.serialization import WellKnownLCObject

from streamserve.lcel.chunk_sum import ChunkSum
from streamserve.wire.types import TAGS, escape


def decode(value: Any, types: dict[str, str], pointer: str = "") -> Any:
    """Return a chunk's JSON with its messages and documents as objects, which can be added up."""
    if isinstance(value, list):
        return [decode(item, types, f"{pointer}/{index}") for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if value.get("type") in TAGS and types.get(pointer) != "dict":
        return WellKnownLCObject.model_validate(value).root
    return {key: decode(item, types, f"{pointer}/{escape(key)}") for key, item in value.items()}


def merge(chunks: Sequence[Any]) -> Any:
    """Return what a chain's chunks add up to: texts and messages are joined, dicts are added key by key."""
    total = ChunkSum()
    for chunk in chunks:
        total.add(AddableDict(chunk) if isinstance(chunk, dict) else chunk)
    merged = total.value()
    return message_chunk_to_message(merged) if isinstance(merged, BaseMessageChunk) else merged
