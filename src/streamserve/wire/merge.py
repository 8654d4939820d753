"""What the chunks of a stream add up to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessageChunk, BaseMessageChunk
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.messages.utils import message_chunk_to_message
from langchain_core.runnables.utils import AddableDict
from langserve.serialization import WellKnownLCObject

from streamserve.wire.types import TAGS, escaped


def decode(value: Any, types: dict[str, str], pointer: str = "") -> Any:
    """A chunk's JSON with its messages and documents as objects, which can be added up."""
    if isinstance(value, list):
        return [decode(item, types, f"{pointer}/{index}") for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if value.get("type") in TAGS and types.get(pointer) != "dict":
        return WellKnownLCObject.model_validate(value).root
    return {key: decode(item, types, f"{pointer}/{escaped(key)}") for key, item in value.items()}


def merge(chunks: Sequence[Any]) -> Any:
    """What a chain's chunks add up to: texts and messages are joined, dicts are added key by key."""
    if not chunks:
        return None
    first = chunks[0]
    if all(isinstance(chunk, str) for chunk in chunks):
        return "".join(chunks)
    if isinstance(first, AIMessageChunk) and all(isinstance(chunk, AIMessageChunk) for chunk in chunks):
        return message_chunk_to_message(add_ai_message_chunks(first, *chunks[1:]))
    return _added(chunks)


def _added(chunks: Sequence[Any]) -> Any:
    total = _addable(chunks[0])
    for chunk in chunks[1:]:
        try:
            total = total + _addable(chunk)
        except TypeError:
            return chunks[-1]  # as langchain-core: what cannot be added replaces
    return message_chunk_to_message(total) if isinstance(total, BaseMessageChunk) else total


def _addable(chunk: Any) -> Any:
    return AddableDict(chunk) if isinstance(chunk, dict) else chunk
