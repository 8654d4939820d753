"""What turns values into JSON and back; `langserve`'s serializers fit as they are."""

from typing import Any, Protocol

import orjson

from streamserve_sdk.codec import decode, encode


class Serializer(Protocol):
    """Turns values into JSON and back."""

    def dumps(self, obj: Any) -> bytes:
        """Return the value as JSON text."""
        ...

    def dumpd(self, obj: Any) -> Any:
        """Return the value as dicts, lists and scalars."""
        ...

    def loads(self, s: bytes) -> Any:
        """Return what a JSON text stands for."""
        ...

    def loadd(self, s: Any) -> Any:
        """Return what a parsed JSON value stands for."""
        ...


class WireSerializer:
    """The default: LangChain's well-known types and the wire's own tags."""

    def dumps(self, obj: Any) -> bytes:
        """Return the value as JSON text; see `encode.dumps`."""
        return encode.dumps(obj)

    def dumpd(self, obj: Any) -> Any:
        """Return the value as dicts, lists and scalars."""
        return orjson.loads(encode.dumps(obj))

    loads = staticmethod(decode.loads)  # it is asked for every token

    def loadd(self, s: Any, types: Any = None) -> Any:
        """Return what a parsed JSON value stands for, with the types that came beside it; see `decode.loadd`."""
        return decode.hinted(s, types) if types and isinstance(types, dict) else decode.loadd(s)
