"""The serializer given to LangServe: complete, line-safe.

Complete: every value a chain can yield has a JSON form (that of pydantic's JSON mode: a set is a list, bytes are
base64, a Decimal is a text). Line-safe: U+2028, U+2029 and U+0085 are escaped, as the stock client breaks lines
at them. Decoding is LangServe's own.
"""

from __future__ import annotations

from typing import Any

import orjson
from langserve.serialization import WellKnownLCSerializer
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from streamserve.errors import InvalidOutput

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
# UTF-8 of the three characters that str.splitlines() breaks at and JSON allows raw.
_LINE_BREAKS = {b"\xe2\x80\xa8": b"\\u2028", b"\xe2\x80\xa9": b"\\u2029", b"\xc2\x85": b"\\u0085"}


class Serializer(WellKnownLCSerializer):  # type: ignore[misc, unused-ignore]
    """LangServe's serializer with a form for every value."""

    def dumps(self, obj: Any) -> bytes:
        """JSON as UTF-8 bytes on one line.

        Raises:
            InvalidOutput: the value has no JSON form (such as an object of an unknown class).
        """
        try:
            return line_safe(orjson.dumps(obj, default=_plain, option=_OPTIONS))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidOutput(f"The chain's output has no JSON form: {type(obj).__name__}") from error


def line_safe(data: bytes) -> bytes:
    """JSON without raw line separators."""
    for raw, escaped in _LINE_BREAKS.items():
        if raw in data:
            data = data.replace(raw, escaped)
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    return to_jsonable_python(value, bytes_mode="base64", timedelta_mode="iso8601")
