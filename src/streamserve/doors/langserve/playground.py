"""LangServe's playground pages. They write a config's schema into a script, so no part of a request may reach them."""

import base64
import hashlib
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Response

from streamserve.catalog.chain import Playground
from streamserve.errors import NotFound
from streamserve.serving.served import ServedRunnable

Endpoint = Callable[..., Coroutine[Any, Any, Response]]

# JSON Schema validation compiles its checks, and the components of the pages write styles.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'{hashes}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def is_playground(path: str) -> bool:
    """Return whether a route's path is the path of a playground's files."""
    return "/playground" in path


async def playground_answer(endpoint: Endpoint, given: Mapping[str, Any]) -> Response:
    """Return a playground's page or file, as LangServe makes it for a path without a config.

    Args:
        endpoint: LangServe's endpoint.
        given: its arguments; LangServe checks the config in the path, and the page's script reads it there.

    Raises:
        NotFound: the path names no file, or cannot name one.
    """
    # A body of the request would be its other argument, a config of the server's.
    own = {name: given.get(name, "") for name in ("file_path", "request", "config_hash")}
    try:
        response = await endpoint(**own)
        if own["config_hash"]:
            response = await endpoint(**{**own, "config_hash": ""})
        if response.status_code == HTTPStatus.NOT_FOUND:  # LangServe answers in plain text
            raise NotFound
    except (OSError, UnicodeError) as error:
        raise NotFound from error
    except ValueError as error:
        if "null byte" in str(error):
            raise NotFound from error
        raise
    return hardened(response)


def hardened(response: Response) -> Response:
    """Add headers to a page: only its own scripts may run, and no other site may show it in a frame."""
    is_page = (response.media_type or "").startswith("text/html")
    _, script, rest = bytes(response.body).partition(b"<script>") if is_page else (b"", b"", b"")
    hashes = _source(rest.partition(b"</script>")[0]) if script else ""
    response.headers["Content-Security-Policy"] = _POLICY.format(hashes=hashes)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["X-Frame-Options"] = "DENY"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


def _source(script: bytes) -> str:
    return f" 'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"


def playground_of(served: ServedRunnable) -> Playground | None:
    """Return the playground that the record names, else "chat" if messages go in and a message or text comes out."""
    chain = served.served.chain
    declared = None if "playground" in chain.not_served else chain.playground
    if declared != "auto":
        return declared
    return "chat" if _is_chat(served) else "default"


def _is_chat(served: ServedRunnable) -> bool:
    fields = served.get_input_schema().model_json_schema().get("properties", {})
    if len(fields) != 1 or served.graph is not None:
        return False
    (only,) = fields.values()
    return only.get("type") == "array" and _is_answer(served.get_output_schema().model_json_schema())


def _is_answer(schema: dict[str, Any]) -> bool:
    options = schema.get("anyOf") or schema.get("oneOf") or []
    return schema.get("type") == "string" or any("AIMessage" in str(option) for option in options)
