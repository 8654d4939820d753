"""The output of a chain as JSON, after a check against the type that the record declares."""

from typing import Any

import orjson
from pydantic import ValidationError

from streamserve.call import Call
from streamserve.errors import InvalidOutput
from streamserve.serving.served import ServedRunnable
from streamserve.wire.serializer import to_line


def check_output(served: ServedRunnable, call: Call, output: Any) -> bytes:
    """Return the whole output as JSON. The record's type checks it and changes nothing.

    Raises:
        InvalidOutput: the output has no JSON form, or neither it nor its JSON fits the record's type.
    """
    line = to_line(output)
    model = served.declared_output
    if model is None or _changes_form(call.kwargs):
        return line
    try:
        model.model_validate(output)
    except ValidationError:
        try:
            model.model_validate(orjson.loads(line))
        except ValueError as error:
            raise InvalidOutput() from error
    return line


def _changes_form(arguments: dict[str, Any]) -> bool:
    """Return whether a graph's output has another form with these arguments than the declared form."""
    return (
        arguments.get("stream_mode", "values") != "values"
        or arguments.get("version") == "v2"
        or "output_keys" in arguments
    )
