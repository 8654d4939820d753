"""Serializers turn values into JSON and back; those of `langserve` fit without changes."""

from typing import Any, Protocol

import orjson

from streamserve_sdk.codec import decode, encode


class Serializer(Protocol):
    """The interface of a serializer."""

    def dumps(self, obj: Any) -> bytes:
        """Return the value as JSON text."""
        ...

    def dumpd(self, obj: Any) -> Any:
        """Return the value as dicts, lists and scalars."""
        ...

    def loads(self, s: bytes) -> Any:
        """Return the value that a JSON text stands for."""
        ...

    def loadd(self, s: Any) -> Any:
        """Return the value that a parsed JSON value stands for."""
        ...


class WireSerializer:
    """The default serializer: LangChain's well-known types and the wire's own tags."""

    def dumps(self, obj: Any) -> bytes:
        """Return the value as JSON text; see `encode.dumps`."""
        return encode.dumps(obj)

    def dumpd(self, obj: Any) -> Any:
        """Return the value as dicts, lists and scalars."""
        return orjson.loads(encode.dumps(obj))

    loads = staticmethod(decode.loads)  # called for every token

    def loadd(self, s: Any, types: Any = None) -> Any:
        """Return the value that a parsed JSON value stands for, using the types that came beside it."""
        return decode.hinted(s, types) if types and isinstance(types, dict) else decode.loadd(s)
