"""The serializer for LangServe: complete, safe for lines, and with types beside the JSON.

Complete: every value of Python's and LangChain's own types has a JSON form, that of pydantic's JSON mode (a set is a
list, bytes are base64, a Decimal is a text). Safe for lines: U+2028, U+2029 and U+0085 are escaped, because the stock
client breaks lines at them. Types: see `wire.types`.
"""

from typing import Any

import orjson
from langchain_core.messages import AIMessageChunk
from langgraph.types import Send
from langserve.serialization import WellKnownLCSerializer
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from streamserve.call import current_call
from streamserve.errors import InvalidOutput
from streamserve.wire.chunk_lines import ChunkLines
from streamserve.wire.types import types_of

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
# UTF-8 of the three characters at which str.splitlines() breaks and that JSON allows unescaped.
_LINE_BREAKS = {b"\xe2\x80\xa8": b"\\u2028", b"\xe2\x80\xa9": b"\\u2029", b"\xc2\x85": b"\\u0085"}


class Envelope(dict[str, Any]):
    """An envelope with the `metadata` that LangServe expects of an event. Its value is sent instead of it."""

    def __init__(self, value: Any) -> None:
        super().__init__(metadata={})
        self.value = value


class Serializer(WellKnownLCSerializer):  # type: ignore[misc, unused-ignore]
    """LangServe's serializer with a form for every value; each chain has its own."""

    def __init__(self) -> None:
        self._chunks = ChunkLines()

    def dumps(self, obj: Any) -> bytes:
        """Return a block's data: JSON, and a `types:` line if the JSON loses types.

        Raises:
            InvalidOutput: the value has no JSON form, for example an object of an unknown class.
        """
        if type(obj) is str:
            return to_line(obj)
        if type(obj) is not AIMessageChunk:
            return typed_line(obj.value if type(obj) is Envelope else obj)
        line = self._chunks.line(obj)
        return self._learned(obj) if line is None else escape_line_breaks(line)

    def _learned(self, chunk: AIMessageChunk) -> bytes:
        line = typed_line(chunk)
        if b"\n" not in line:
            self._chunks.learn(chunk)
        return line

    def dumpd(self, obj: Any) -> Any:
        """Return dicts, lists and scalars, and keep the types in the current call.

        Raises:
            InvalidOutput: the value has no JSON form.
        """
        if call := current_call.get():
            call.types = types_of(obj)
        return orjson.loads(to_line(obj))


def to_line(value: Any) -> bytes:
    """Return JSON as UTF-8 bytes on one line.

    Raises:
        InvalidOutput: the value has no JSON form.
    """
    try:
        data = orjson.dumps(value, default=_plain, option=_OPTIONS)
    except (TypeError, ValueError, RecursionError):
        data = _beyond_orjson(value)
    return escape_line_breaks(data)


def escape_line_breaks(data: bytes) -> bytes:
    """Return JSON with all line breaks escaped."""
    if not data.isascii():
        for raw, escaped in _LINE_BREAKS.items():
            data = data.replace(raw, escaped)
    return data


def typed_line(value: Any) -> bytes:
    """Return JSON on one line, with a `types:` line after it if the JSON loses types.

    Raises:
        InvalidOutput: the value has no JSON form.
    """
    line = to_line(value)  # first, because it refuses values that contain themselves
    types = types_of(value)
    return b"%s\ntypes: %s" % (line, to_line(types)) if types else line


def split_types(line: bytes) -> tuple[bytes, bytes]:
    """Return the JSON of a value and of its types, which may be empty."""
    data, _, types = line.partition(b"\ntypes: ")
    return data, types


def keep_output(output: Any) -> None:
    """Keep the current call's final output, for outputs that cannot be merged from chunks."""
    if call := current_call.get():
        call.output = typed_line(output)


def _beyond_orjson(value: Any) -> bytes:
    # Integers above 64 bits, tuples as keys, lone surrogates.
    try:
        return to_json(value, bytes_mode="base64", timedelta_mode="iso8601", inf_nan_mode="null", fallback=_plain)
    except (PydanticSerializationError, TypeError, ValueError, RecursionError) as error:
        raise InvalidOutput(f"The chain's output has no JSON form: {type(value).__name__}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, Send):
        return {"node": value.node, "arg": value.arg}
    if isinstance(value, BaseException):
        return {"exception": type(value).__name__}  # its text may hold secrets
    return to_jsonable_python(value, bytes_mode="base64", timedelta_mode="iso8601")
