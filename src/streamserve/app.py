"""create_app: serve the chains of a registry as one FastAPI application."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from streamserve.api import health, openapi
from streamserve.api.answers import places_of
from streamserve.api.services import Services, install
from streamserve.auth.shares import ShareTokens
from streamserve.catalog.registry import BrokenModules, Registry, discover
from streamserve.doors.langserve import routes as langserve
from streamserve.errors import ServeError, StoreUnavailable, Unauthenticated, error_body, http_code
from streamserve.http import cors as browsers
from streamserve.http.intake import Intake
from streamserve.library import Chains, make_services
from streamserve.lifespan import lifespan
from streamserve.pages import docs as reference
from streamserve.pages import home
from streamserve.pages import sign_in as pages
from streamserve.serving.chains import serve_all
from streamserve.serving.served import ServedRunnable
from streamserve.settings import Settings
from streamserve.stores import StoreDown
from streamserve.telemetry import Telemetry, exposition
from streamserve.telemetry.requests import RequestContext

logger = logging.getLogger(__name__)


def create_app(
    registry: Registry, settings: Settings | None = None, *, guard: Callable[..., Any] | None = None
) -> FastAPI:
    """Return the application that serves the chains.

    Args:
        registry: the chains that `discover` found.
        settings: the settings; default: those of the environment.
        guard: a FastAPI dependency of every route of a chain or run. It names the caller, who then owns the runs that
            it starts: it sets `request.state.principal`, or returns the name or an `auth.Identity`, which has scopes
            too. Default: the guard that `settings.auth` names.

    Raises:
        BrokenModules: a chain cannot be imported or described, and `settings.dev` is off.
        ValueError: the store of the runs or of the checkpoints is unknown, or `recover` needs another one; or the
            settings of authentication do not fit together.
    """
    settings = settings or Settings()
    app = FastAPI(
        title="StreamServe",
        description="LangChain chains and LangGraph graphs, streamed without losing a token.",
        lifespan=lifespan,
        openapi_url=None,  # `reference` has a document for each caller
        docs_url=None,  # FastAPI's own pages load their scripts from another server
        redoc_url=None,
    )
    telemetry = Telemetry(settings)
    services = make_services(settings, guard, telemetry)
    chains, broken = serve_all(registry, keeps=True)
    if broken and not settings.dev:
        raise BrokenModules(broken)
    for module in broken:
        logger.error("left out: %s", module)
    install(app, services)
    auth, runs = services.auth, services.runs
    dependencies = auth.dependencies
    _mount_chains(app, chains, services)
    for router in (
        health.router,
        exposition.router(telemetry.metrics, runs, settings, dependencies),
        home.router(chains, broken, dependencies),
        reference.router(app, [] if settings.public_docs else dependencies),
    ):
        _add(app, router)
    if auth.sessions is not None:
        _add(app, auth.sessions.router())
    app.add_middleware(Intake, settings=settings, incoming=services.incoming)
    app.add_middleware(RequestContext, **telemetry.request_hooks())
    app.add_middleware(ShareTokens)
    browsers.allow_origins(app, settings)
    _answer_errors(app)
    _document(app)
    return app


def _add(app: FastAPI, router: APIRouter) -> None:
    # Not include_router, which keeps the router whole: LangGraph's server puts its auth around single routes.
    app.router.routes.extend(router.routes)


def create_default_app() -> FastAPI:
    """Return the application that the environment's settings describe, for a folder without a server.py."""
    settings = Settings()
    return create_app(discover(settings.chains), settings)


def _mount_chains(app: FastAPI, served: Sequence[ServedRunnable], services: Services) -> None:
    chains = Chains(app.router, services, whole=True)
    chains.add_runs()  # a worker without chains still answers for the runs of its store
    for each in served:
        chains.add_served(each)
    # A request is compared with one route after another, and 20 chains have 650: for the last chain that is 0.86 ms
    # as upstream, 0.26 ms with RunRoute.matches, and 0.05 ms with the frequent routes in front.
    app.router.routes.sort(key=lambda route: not (isinstance(route, langserve.RunRoute) and route.is_frequent))


def _answer_errors(app: FastAPI) -> None:
    app.add_exception_handler(ServeError, _serve_error)
    app.add_exception_handler(Unauthenticated, _unauthenticated)
    app.add_exception_handler(StoreDown, _store_down)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)


async def _serve_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServeError)
    return JSONResponse(error.body(), status_code=error.status, headers=error.answer_headers)


async def _unauthenticated(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServeError)
    return pages.sign_in(request) if pages.wants_page(request) else await _serve_error(request, error)


async def _store_down(request: Request, _error: Exception) -> JSONResponse:
    return await _serve_error(request, StoreUnavailable())


async def _http_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    body = error_body(error.detail, http_code(error.status_code))
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return await _serve_error(request, places_of(error))


def _document(app: FastAPI) -> None:
    original = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi.document(original())
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
