"""Dependencies and endpoints that take nothing but the request, called without what FastAPI does to find arguments.

That is most of a request's way to a chain: for each route a tree is walked, contexts are opened and answers are put
together. What takes more than the request goes FastAPI's way.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from fastapi import Request, Response, params
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def admission(dependencies: Sequence[params.Depends]) -> Callable[[Request], Coroutine[Any, Any, object]] | None:
    """What lets a request in, or raises; None: a dependency takes more than the request.

    Args:
        dependencies: in the order in which they are asked.
    """
    calls: list[Callable[[Request], Awaitable[object]]] = []
    for each in dependencies:
        if each.dependency is None or not _takes_request(each.dependency):
            return None
        calls.append(each.dependency)

    async def admit(request: Request) -> None:
        for call in calls:
            await call(request)

    return admit


def handler(endpoint: Callable[..., Any]) -> Handler | None:
    """The handler of an endpoint that answers by itself; None: it takes more than the request and a config hash."""
    if _takes_request(endpoint):
        return endpoint
    if not _takes_request(endpoint, "config_hash"):
        return None

    async def handle(request: Request) -> Response:
        response: Response = await endpoint(request, request.path_params["config_hash"])
        return response

    return handle


def application(handle: Handler) -> ASGIApp:
    """The ASGI application of a handler that opens nothing; what it raises is answered further out."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await handle(Request(scope, receive, send))
        await response(scope, receive, send)

    return app


def _takes_request(call: Callable[..., Any], *more: str) -> bool:
    function = call if inspect.isroutine(call) else getattr(call, "__call__", None)  # noqa: B004
    if not inspect.iscoroutinefunction(function):
        return False
    try:
        first, *others = inspect.signature(call, eval_str=True).parameters.values()
    except (NameError, ValueError):  # it names a type that is not there, or takes nothing
        return False
    return first.annotation in (Request, HTTPConnection) and tuple(each.name for each in others) == more
