"""The serializer for LangServe: complete, safe for lines, and with types beside the JSON.

Complete: every value of Python's and LangChain's own types has a JSON form, that of pydantic's JSON mode (a set is a
list, bytes are base64, a Decimal is a text), with all fields that it has, declared or not. Safe for lines: U+2028,
U+2029 and U+0085 are escaped, because the stock client breaks lines at them. Types: see `wire.types`.
"""

import dataclasses
import logging
from collections import deque
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import orjson
from langchain_core.messages import AIMessageChunk
from langgraph.types import Send
from langserve.serialization import WellKnownLCSerializer
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from streamserve.call import current_call
from streamserve.errors import InvalidOutput
from streamserve.user import User
from streamserve.wire.chunk_lines import ChunkLines, is_on
from streamserve.wire.types import is_bare, types_of, types_of_chunk
from streamserve.wire.uncommon import uncommon_json

logger = logging.getLogger(__name__)

# orjson alone would leave out the fields of dataclasses with a leading underscore.
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATACLASS
# UTF-8 of the three characters at which str.splitlines() breaks and that JSON allows unescaped.
_LINE_BREAKS = {b"\xe2\x80\xa8": b"\\u2028", b"\xe2\x80\xa9": b"\\u2029", b"\xc2\x85": b"\\u0085"}

# Characters from which on a message's text is encoded alone: beside others, orjson reserves eight times their memory.
LARGE_TEXT = 2**20


class Envelope(dict[str, Any]):
    """An envelope with the `metadata` that LangServe expects of an event. Its value is sent instead of it."""

    def __init__(self, value: Any) -> None:
        super().__init__(metadata={})
        self.value = value


class Serializer(WellKnownLCSerializer):  # type: ignore[misc, unused-ignore]
    """LangServe's serializer with a form for every value; each chain has its own."""

    def __init__(self) -> None:
        self._chunks = ChunkLines() if is_on(typed_line) else None

    def dumps(self, obj: Any) -> bytes:
        """Return a block's data: JSON, and a `types:` line if the JSON loses types.

        Raises:
            InvalidOutput: the value has no JSON form, for example an object of an unknown class; with its place.
        """
        if type(obj) is str:
            return to_line(obj)
        if type(obj) is not AIMessageChunk:
            return typed_line(obj.value if type(obj) is Envelope else obj)
        if self._chunks is None:
            return typed_line(obj)
        line = self._chunks.line(obj)
        return _learned(self._chunks, obj) if line is None else escape_line_breaks(line)

    def dumps_chunk(self, obj: Any) -> bytes:
        """Return the data of a block that is a chunk of the chain's own stream; arguments and errors as `dumps`."""
        if type(obj) is str or type(obj) is AIMessageChunk:
            return self.dumps(obj)
        return _with_types(to_line(obj), types_of_chunk(obj))


def _learned(lines: ChunkLines, chunk: AIMessageChunk) -> bytes:
    line = typed_line(chunk)
    if b"\n" not in line:
        lines.learn(chunk)
    return line


def to_line(value: Any) -> bytes:
    """Return JSON as UTF-8 bytes on one line.

    Raises:
        InvalidOutput: the value has no JSON form.
    """
    try:
        data = orjson.dumps(value, default=_part, option=_OPTIONS)
    except (TypeError, ValueError, RecursionError):
        data = uncommon_json(value, _plain)
    return escape_line_breaks(data)


def known_line(value: Any) -> bytes:
    """Return JSON on one line, with null for each part that has no JSON form.

    Raises:
        InvalidOutput: the value contains itself.
    """
    try:
        return to_line(value)
    except InvalidOutput:
        return escape_line_breaks(uncommon_json(value, _plain_or_none))


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
    return _with_types(line, types_of(value))


def _with_types(line: bytes, types: dict[str, str]) -> bytes:
    return b"%s\ntypes: %s" % (line, to_line(types)) if types else line


def split_types(line: bytes) -> tuple[bytes, bytes]:
    """Return the JSON of a value and of its types, which may be empty."""
    data, _, types = line.partition(b"\ntypes: ")
    return data, types


def keep_output(output: Any) -> None:
    """Keep the current call's final output, for outputs that cannot be merged from chunks."""
    if call := current_call.get():
        call.output = typed_line(output)


def keep_output_if_json(output: Any) -> None:
    """Keep the current call's final output if it has a JSON form; its run is right without it."""
    try:
        keep_output(output)
    except InvalidOutput as error:
        logger.warning("%s: its run has no output", error)


def _part(value: Any) -> Any:
    if not is_bare(value):
        return _plain(value)
    fields = value.__dict__
    if len(fields["content"]) < LARGE_TEXT:
        return fields
    return {**fields, "content": orjson.Fragment(orjson.dumps(fields["content"]))}


def _plain_or_none(value: Any) -> Any:
    try:
        return _plain(value)
    except Exception:  # a class's own code may raise anything
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        # By the values' own types: a field of BaseMessage would drop the fields of its subclasses.
        return value.model_dump(serialize_as_any=True)
    if isinstance(value, Send):
        return {"node": value.node, "arg": value.arg}
    if isinstance(value, User):
        return value.public()
    if isinstance(value, BaseException):
        return {"exception": type(value).__name__}  # its text may hold secrets
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | AbstractSet | deque | Iterator):
        return list(value)
    if hasattr(value, "tolist"):  # numpy's dates and texts, and tensors
        return value.tolist()
    return _of_record(value)


def _of_record(value: Any) -> Any:
    """Return the form of a value of pydantic's types, or of a class that only the record's own serializer knows."""
    try:
        return to_jsonable_python(value, bytes_mode="base64", timedelta_mode="iso8601")
    except PydanticSerializationError:
        call = current_call.get()
        if call is None or call.serializer is None:
            raise
        return orjson.loads(call.serializer.dumps(value))
