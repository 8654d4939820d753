"""LangServe's requests: what the body of each endpoint must have, and the version of events that it asks for."""

from __future__ import annotations

from typing import Any, cast, get_args

from streamserve.call import EventVersion
from streamserve.errors.places import invalid
from streamserve.serving.request_body import check_shape
from streamserve.wire.input_types import decode_input_types

# The field that the body of each endpoint must have; these endpoints start a run, or a call without a stream.
REQUIRED = {
    "invoke": "input",
    "batch": "inputs",
    "stream": "input",
    "stream_log": "input",
    "stream_events": "input",
    "runs": "input",
}
# Version 3 has none of the filters of the older versions, and always has the events of subgraphs.
_FILTERS = tuple(f"{verb}_{what}" for verb in ("include", "exclude") for what in ("names", "types", "tags"))


def read_body(parsed: Any, endpoint: str, max_batch: int) -> tuple[dict[str, Any], EventVersion]:
    """Return the body of a request with the types of its input, and the version of events, by default "v2".

    Args:
        parsed: the JSON of the body.
        endpoint: the last part of the path.
        max_batch: the largest number of inputs.

    Raises:
        InvalidInput: the outer shape does not fit; with the place.
    """
    body = check_shape(parsed, REQUIRED[endpoint], max_batch)
    decode_input_types(body, REQUIRED[endpoint])
    return _without_version(body) if endpoint == "stream_events" else (body, "v2")


def _without_version(body: dict[str, Any]) -> tuple[dict[str, Any], EventVersion]:
    kwargs = body.get("kwargs")
    if not isinstance(kwargs, dict) or kwargs.get("version") is None:
        return body, "v2"
    version = kwargs["version"]
    if version not in list(get_args(EventVersion)):
        options = ", ".join(get_args(EventVersion))
        raise invalid(("body", "kwargs", "version"), f"Input should be one of: {options}", "literal_error")
    if version == "v3":
        _check_third(body, kwargs)
    rest = {name: value for name, value in kwargs.items() if name != "version"}
    return {**body, "kwargs": rest}, cast(EventVersion, version)


def _check_third(body: dict[str, Any], kwargs: dict[str, Any]) -> None:
    if kwargs.get("subgraphs") is not None:
        raise invalid(
            ("body", "kwargs", "subgraphs"), "Events of version 3 are always of all subgraphs", "extra_forbidden"
        )
    for name in _FILTERS:
        if body.get(name) is not None:
            raise invalid(("body", name), "Events of version 3 have no filters", "extra_forbidden")
