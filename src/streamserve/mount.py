"""One router per chain: LangServe's routes, unpatched, behind our route class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

from fastapi import APIRouter, params
from langserve import add_routes

from streamserve.chain import Playground
from streamserve.serializer import Serializer
from streamserve.served import ServedRunnable
from streamserve.streaming.route import RunRoute

EVENT_STREAM = {
    "description": "Server-sent events",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}


def chain_router(served: ServedRunnable, dependencies: Sequence[params.Depends] = ()) -> APIRouter:
    """All routes of one chain under `/{name}`.

    Args:
        served: the runnable with its record.
        dependencies: what every route must pass first.
    """
    router = APIRouter(route_class=RunRoute.of(served), dependencies=list(dependencies))
    playground = playground_of(served)
    add_routes(
        router,
        served,
        path=served.served.path,
        playground_type=playground or "default",
        disabled_endpoints=cast(Any, ["token_feedback", *([] if playground else ["playground"])]),
        serializer=Serializer(),
    )
    return router


def playground_of(served: ServedRunnable) -> Playground | None:
    """The playground that fits: what the record says, else "chat" if messages go in and a message or text comes out."""
    declared = served.served.chain.playground
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


def document(openapi: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document with event streams documented as such."""
    for path, methods in openapi["paths"].items():
        if re.search(r"/stream(_log|_events)?$", path) and "post" in methods:
            methods["post"]["responses"]["200"] = EVENT_STREAM
    return openapi
