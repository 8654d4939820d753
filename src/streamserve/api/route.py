"""A route of an application with runs: it bounds each request, answers our errors, and needs no middleware.

A team's own application keeps its handlers and its middleware: errors of its dependencies are left to it.
"""

from typing import Any, ClassVar, Protocol

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from streamserve.api.access import BASE
from streamserve.api.answers import answer_of
from streamserve.api.services import Services
from streamserve.errors import ServeError
from streamserve.http.direct import Handler
from streamserve.http.intake import Intake
from streamserve.stores import StoreDown


class Ready(Protocol):
    """Starts what an application needs."""

    async def __call__(self, app: Any) -> Services:
        """Return the services of the application that a request came to, once its runs are under way."""


class ServedRoute(APIRoute):
    """A route under a chain's path, or of the runs."""

    ready: ClassVar[Ready]

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As upstream, within the bounds of a request."""
        services = await self.ready(scope["app"])
        scope[BASE] = self.runs_path(scope)
        await Intake(super().handle, services.settings, services.incoming)(scope, receive, send)

    def runs_path(self, scope: Scope) -> str:
        """Return the path of the runs as the caller sees it."""
        root, path = str(scope.get("root_path", "")).rstrip("/"), str(scope["path"])
        own = path.removeprefix(root) if path.startswith(f"{root}/") else path
        return root + self.place_of(own, scope["path_params"]) + "/runs"

    def place_of(self, path: str, _params: dict[str, Any]) -> str:
        """Return the part of a path of this route before `/runs`."""
        return path.partition("/runs/")[0]

    def get_route_handler(self) -> Handler:
        """Return FastAPI's handler, with answers for our errors; FastAPI's hook."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except (ServeError, StoreDown) as error:
                return answer_of(request, error)

        return handle
