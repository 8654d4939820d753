"""Dependencies that are solved inside a request, beside those of its route."""

from collections.abc import Sequence
from typing import Any

from fastapi import Request, Response, params
from fastapi.routing import APIRoute

from streamserve.http import direct


class Checks:
    """FastAPI dependencies that are known only when a request is there, such as those of a run's chain.

    Args:
        dependencies: dependencies as those of a route. What they return is dropped.
    """

    def __init__(self, dependencies: Sequence[params.Depends] = ()) -> None:
        self.dependencies = tuple(dependencies)
        self._plain = direct.admission(self.dependencies)

    async def __call__(self, request: Request) -> None:
        """Solve the dependencies; what they raise passes on."""
        if self._plain is None or direct.is_overridden(request.app):
            await self._route(request.app).get_route_handler()(request)
        elif self.dependencies:
            await self._plain(request)

    def _route(self, provider: Any) -> APIRoute:
        return APIRoute("/", _done, dependencies=self.dependencies, dependency_overrides_provider=provider)


async def _done() -> Response:
    return Response()
