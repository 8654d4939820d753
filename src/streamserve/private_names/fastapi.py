"""fastapi: a route's `dependant`. Without it, a route's dependencies are solved twice for each request."""

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute


def handler_without_dependencies(route: APIRoute) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """Return a route's handler, which does not solve the dependencies that stand beside the endpoint's own."""
    whole: Any = getattr(route, "dependant", None)
    if not hasattr(whole, "dependencies"):
        return APIRoute.get_route_handler(route)
    # FastAPI puts them first.
    route.dependant = replace(whole, dependencies=whole.dependencies[len(route.dependencies) :])
    try:
        return APIRoute.get_route_handler(route)
    finally:
        route.dependant = whole
