"""The output of a chain as JSON, after a check against the type that the record declares."""

import json
from typing import Any

from pydantic import BaseModel

from streamserve.call import Call
from streamserve.errors import InvalidOutput
from streamserve.graphs.graph import INTERRUPT
from streamserve.serving.served import ServedRunnable
from streamserve.wire.serializer import to_line


def check_output(served: ServedRunnable, call: Call, output: Any) -> bytes:
    """Return the whole output as JSON. The record's type checks it and changes nothing.

    Raises:
        InvalidOutput: the output has no JSON form, or neither it nor its JSON fits the record's type.
    """
    line = to_line(output)
    model = served.declared_output
    if model is None or _has_other_form(output, call.kwargs):
        return line
    if not _fits(model, output) and not _fits(model, json.loads(line)):
        raise InvalidOutput()
    return line


def _fits(model: type[BaseModel], value: Any) -> bool:
    try:
        model.model_validate(value)
    except Exception:  # LangChain's own validators raise TypeError and more
        return False
    return True


def _has_other_form(output: Any, arguments: dict[str, Any]) -> bool:
    """Return whether a graph's output is no whole state: with these arguments, or because the graph asks."""
    return (
        arguments.get("stream_mode", "values") != "values"
        or arguments.get("version") == "v2"
        or "output_keys" in arguments
        or (isinstance(output, dict) and INTERRUPT in output)
    )
