"""create_app: the chains of a registry as one FastAPI application."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import Depends, FastAPI, Request, params
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from streamserve import health, home, mount
from streamserve.checkpoints import Checkpoints
from streamserve.errors import HTTP_CODES, ServeError, StoreUnavailable, error_body
from streamserve.lifespan import lifespan
from streamserve.registry import Registry, discover
from streamserve.served import ServedRunnable, serve
from streamserve.settings import Settings
from streamserve.stores import StoreDown
from streamserve.streaming import api
from streamserve.streaming.runs import Runs

logger = logging.getLogger(__name__)

# Where FastAPI's own places begin.
REQUEST_PARTS = {"body", "path", "query", "header", "cookie"}


def create_app(
    registry: Registry, settings: Settings | None = None, *, guard: Callable[..., Any] | None = None
) -> FastAPI:
    """The application that serves the chains.

    Args:
        registry: what `discover` found.
        settings: default: from the environment.
        guard: a FastAPI dependency that every route of a chain or run must pass; it sets
            `request.state.principal` to the name of the caller, who then owns the runs it makes.

    Raises:
        BrokenModules: a chain module is broken, and the settings do not say `dev`.
        ValueError: the settings name no place that there is for runs or checkpoints.
    """
    settings = settings or Settings()
    for broken in registry.broken if settings.dev else registry.require_whole().broken:
        logger.error("left out: %s", broken)
    app = FastAPI(
        title="StreamServe",
        description="LangChain chains and LangGraph graphs, streamed without losing a token.",
        lifespan=lifespan,
    )
    app.state.runs = Runs(settings)
    app.state.checkpoints = Checkpoints(settings)
    dependencies = [Depends(guard)] if guard else []
    chains = _mount_chains(app, registry, dependencies)
    app.include_router(api.router(dependencies))
    app.include_router(health.router)
    app.include_router(home.router(chains, registry.broken))
    _answer_errors(app)
    _document_streams(app)
    return app


def create_default_app() -> FastAPI:
    """The application of the environment's settings, for a folder without a server.py."""
    settings = Settings()
    return create_app(discover(settings.chains), settings)


def _mount_chains(app: FastAPI, registry: Registry, dependencies: Sequence[params.Depends]) -> list[ServedRunnable]:
    chains = [serve(entry, app.state.checkpoints) for entry in registry.chains.values()]
    for served in chains:
        app.include_router(mount.chain_router(served, dependencies))
    return chains


def _answer_errors(app: FastAPI) -> None:
    app.add_exception_handler(ServeError, _serve_error)
    app.add_exception_handler(StoreDown, _store_down)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)


async def _serve_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServeError)
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


async def _store_down(request: Request, _error: Exception) -> JSONResponse:
    return await _serve_error(request, StoreUnavailable())


async def _http_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = HTTP_CODES.get(error.status_code, "invalid_input" if error.status_code == 422 else "error")
    return JSONResponse(error_body(error.detail, code), status_code=error.status_code, headers=error.headers)


async def _validation_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    detail = [_place(item) for item in error.errors()]
    return JSONResponse(error_body(detail, "invalid_input"), status_code=422)


def _place(item: Any) -> dict[str, Any]:
    if isinstance(item, dict):
        return {
            "loc": _from_request(item.get("loc", ())),
            "msg": item.get("msg", ""),
            "type": item.get("type", "value_error"),
        }
    return {"loc": ["body"], "msg": str(item), "type": "value_error"}


def _from_request(place: Sequence[Any]) -> list[Any]:
    # LangServe validates a config hash and the fields beside an input by themselves: their places begin inside.
    if place[:1] == ("configurable",):
        return ["path", "config_hash", *place]
    return [*place] if place and place[0] in REQUEST_PARTS else ["body", *place]


def _document_streams(app: FastAPI) -> None:
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = mount.document(original())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
