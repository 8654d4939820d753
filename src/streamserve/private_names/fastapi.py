"""fastapi: the routes of included routers. Without it, their chains are known from their first request on."""

from collections.abc import Sequence
from typing import Any

from starlette.routing import BaseRoute

from streamserve.private_names import find

_contexts: Any = find("fastapi.routing", "iter_route_contexts")


def routes_in(routes: Sequence[BaseRoute]) -> list[BaseRoute]:
    """Return routes, with those of included routers in their place."""
    return [each.original_route for each in _contexts(routes)] if _contexts else list(routes)
