"""Which version of events a request to /stream_events asks for."""

from __future__ import annotations

from typing import Any, cast, get_args

from streamserve.call import EventVersion
from streamserve.errors.places import invalid

# Version 3 has none of the filters of the older ones, and always tells of subgraphs.
_FILTERS = tuple(f"{verb}_{what}" for verb in ("include", "exclude") for what in ("names", "types", "tags"))


def taken(body: dict[str, Any]) -> tuple[EventVersion, dict[str, Any]]:
    """The version, by default "v2", and the body without it.

    Args:
        body: of the right outer shape.

    Raises:
        InvalidInput: it is unknown, or version 3 has not what else the body asks for; with the place.
    """
    kwargs = body.get("kwargs")
    if not isinstance(kwargs, dict) or kwargs.get("version") is None:
        return "v2", body
    version = kwargs["version"]
    if version not in list(get_args(EventVersion)):
        options = ", ".join(get_args(EventVersion))
        raise invalid(("body", "kwargs", "version"), f"Input should be one of: {options}", "literal_error")
    if version == "v3":
        _check_third(body, kwargs)
    rest = {name: value for name, value in kwargs.items() if name != "version"}
    return cast(EventVersion, version), {**body, "kwargs": rest}


def _check_third(body: dict[str, Any], kwargs: dict[str, Any]) -> None:
    if kwargs.get("subgraphs") is not None:
        raise invalid(
            ("body", "kwargs", "subgraphs"), "Events of version 3 are always of all subgraphs", "extra_forbidden"
        )
    for name in _FILTERS:
        if body.get(name) is not None:
            raise invalid(("body", name), "Events of version 3 have no filters", "extra_forbidden")
