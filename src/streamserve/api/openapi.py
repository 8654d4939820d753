"""The OpenAPI document with event streams, and every status that an operation may answer with."""

import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from streamserve.api.components import reference, share, used

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
REFERENCE = reference("schemas", "Error")
GROUPS = ("4XX", "5XX")
HASH = "/c/{config_hash}"
HASHED_PATH = f"/{{chain}}{HASH}/{{endpoint}}"

# The errors of every operation, by status.
COMMON = {
    400: "a header, a cursor or a config in the path is invalid",
    401: "a missing or invalid credential",
    403: "the credential does not allow this",
    404: "it does not exist, or belongs to another principal",
    405: "no such method",
    422: "the input is invalid; the places are in `detail`",
    429: "too many requests, runs or readers; `Retry-After` gives the seconds to wait",
    431: "the headers are too large",
    500: "the chain or the server failed; the cause is in the log",
    503: "the server shuts down, has the maximum number of runs, or its store is unreachable",
}
# The errors of operations with a body, most of which run a chain before they answer, or return a run's end.
OF_BODIES = {
    408: "the body came too slowly",
    409: "another run of the thread is live, or the run failed",
    413: "the body is too large",
    415: "the body is not declared as JSON",
    499: "the run was cancelled",
    502: "the model's provider failed",
    504: "the run or the model's provider took too long",
    507: "the run exceeded the limit of its blocks",
}
HASHED: dict[str, Any] = {
    "post": {
        "tags": ["server"],
        "summary": "An endpoint of a chain, with a config in the path",
        "description": "The request and the answers are those of the endpoint without the config.",
        "operationId": "with_config",
        "parameters": [
            {"name": "chain", "in": "path", "required": True, "schema": {"type": "string"}},
            {
                "name": "config_hash",
                "in": "path",
                "required": True,
                "description": "The config as JSON, packed by LZString for an address, as LangServe's playground does.",
                "schema": {"type": "string"},
            },
            {
                "name": "endpoint",
                "in": "path",
                "required": True,
                "schema": {"enum": ["invoke", "batch", "stream", "stream_log", "stream_events", "runs"]},
            },
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
        "responses": {"200": {"description": "The answer of the endpoint"}},
    }
}


def document(openapi: dict[str, Any]) -> dict[str, Any]:
    """Complete FastAPI's OpenAPI document in place with event streams and errors, and return it.

    Paths with a config hash are the same operations again: one path stands for all of them.
    """
    paths = {path: found for path, found in openapi["paths"].items() if HASH not in path}
    if len(paths) < len(openapi["paths"]):
        paths[HASHED_PATH] = deepcopy(HASHED)
    for path, methods in paths.items():
        for method, operation in methods.items():
            _complete(path, method, operation)
    parts = openapi.setdefault("components", {})
    parts.setdefault("schemas", {})["Error"] = ERROR_SCHEMA
    parts["responses"] = {
        f"{kind}{group}": _error(texts, group)
        for kind, texts in (("Error", COMMON), ("RunError", COMMON | OF_BODIES))
        for group in GROUPS
    }
    share(paths, parts)
    return {**openapi, "paths": paths}


def _error(texts: dict[int, str], group: str) -> dict[str, Any]:
    shown = "; ".join(f"{status}: {text}" for status, text in sorted(texts.items()) if str(status)[0] == group[0])
    return {"description": shown, "content": {"application/json": {"schema": REFERENCE}}}


def shown(openapi: dict[str, Any], allows: Callable[[str], bool]) -> dict[str, Any]:
    """Return a document without the chains that a caller may not call, and without their schemas.

    Args:
        allows: function that tells whether the caller may call the chain of a name; true for other names.
    """
    paths = {path: found for path, found in openapi["paths"].items() if allows(path.split("/")[1])}
    if len(paths) == len(openapi["paths"]):
        return openapi
    parts = openapi["components"]
    return {**openapi, "paths": paths, "components": used(parts, [paths, REFERENCE])}


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    if method == "post" and re.search(r"/stream(_log|_events)?$", path):
        answers["200"] = EVENT_STREAM
    if method == "post" and path.endswith("/runs"):
        answers["202"] = ACCEPTED
    if method == "post" and path.endswith(("/invoke", "/batch")):
        answers["202"] = UNDER_WAY
    # LangServe's descriptions go on for pages about the options of each event.
    operation["description"] = operation.get("description", "").partition("\n\n")[0]
    # An error that an operation describes itself goes before its group.
    own = {status: answer for status, answer in answers.items() if answer.get("description") != "Validation Error"}
    kind = "RunError" if method == "post" else "Error"
    operation["responses"] = own | {group: reference("responses", f"{kind}{group}") for group in GROUPS}
