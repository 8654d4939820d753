"""The OpenAPI document with event streams, and every status that an operation may answer with."""

import re
from collections.abc import Callable, Iterator
from typing import Any

EVENT_STREAM = {"description": "Server-sent events", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
ACCEPTED = {"description": "The run continues in the background; `Location` is its stream"}
UNDER_WAY = {"description": "With an Idempotency-Key and `wait`: the run continues; `Content-Location` is its address"}

ERROR_SCHEMA = {
    "type": "object",
    "required": ["detail", "code", "retryable", "run_id"],
    "properties": {
        "detail": {"description": "A text; for invalid input, a list of places."},
        "code": {"type": "string"},
        "retryable": {"type": "boolean"},
        "run_id": {"type": ["string", "null"]},
    },
}
REFERENCE = {"$ref": "#/components/schemas/Error"}

# The errors of every operation.
COMMON = {
    400: "A header, a cursor or a config in the path is invalid",
    401: "A missing or invalid credential",
    403: "The credential does not allow this",
    404: "It does not exist, or belongs to another principal",
    405: "No such method",
    422: "The input is invalid; the places are in `detail`",
    429: "Too many requests, runs or readers; `Retry-After` gives the seconds to wait",
    431: "The headers are too large",
    500: "The chain or the server failed; the cause is in the log",
    503: "The server shuts down, has the maximum number of runs, or its store is unreachable",
}
# The errors of operations with a request body.
OF_BODIES = {
    408: "The body came too slowly",
    413: "The body is too large",
    415: "The body is not declared as JSON",
}
# The errors of operations that run a chain before they answer, or return a run's end.
OF_RUNS = {
    409: "Another run of the thread is live, or the run failed",
    499: "The run was cancelled",
    502: "The model's provider failed",
    504: "The run or the model's provider took too long",
    507: "The run exceeded the limit of its blocks",
}


def document(openapi: dict[str, Any]) -> dict[str, Any]:
    """Complete FastAPI's OpenAPI document in place with event streams and errors, and return it."""
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            _complete(path, method, operation)
    openapi.setdefault("components", {}).setdefault("schemas", {})["Error"] = ERROR_SCHEMA
    return openapi


def shown(openapi: dict[str, Any], allows: Callable[[str], bool]) -> dict[str, Any]:
    """Return a document without the chains that a caller may not call, and without their schemas.

    Args:
        allows: function that tells whether the caller may call the chain of a name; true for other names.
    """
    paths = {path: found for path, found in openapi["paths"].items() if allows(path.split("/")[1])}
    if len(paths) == len(openapi["paths"]):
        return openapi
    parts = openapi["components"]
    kept = _with_referred(parts["schemas"], {"Error", *_referred(paths)})
    return {**openapi, "paths": paths, "components": {**parts, "schemas": kept}}


def _with_referred(schemas: dict[str, Any], names: set[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    while names:
        found = {name: schemas[name] for name in sorted(names)}
        kept |= found
        names = set(_referred(found)) - kept.keys()
    return kept


def _referred(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str):
            yield reference.rpartition("/")[2]
        for inner in value.values():
            yield from _referred(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _referred(inner)


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    if method == "post" and re.search(r"/stream(_log|_events)?$", path):
        answers["200"] = EVENT_STREAM
    if method == "post" and path.endswith("/runs"):
        answers["202"] = ACCEPTED
    if method == "post" and path.endswith(("/invoke", "/batch")):
        answers["202"] = UNDER_WAY
    errors = {**COMMON, **(OF_BODIES | OF_RUNS if method == "post" else {})}
    for status, description in errors.items():
        own = answers.get(str(status), {}).get("description", "")
        shown = description if own in ("", "Validation Error") else own
        answers[str(status)] = {"description": shown, "content": {"application/json": {"schema": REFERENCE}}}
