"""The OpenAPI document, and /docs, which shows it by Swagger UI without requests to other servers.

Each caller sees the chains that it may call; if the documentation is public, everybody sees all of them.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI, Request, params
from fastapi.responses import HTMLResponse, JSONResponse

from streamserve.api import openapi
from streamserve.api.services import services_of
from streamserve.pages.assets import PAGE_HEADERS, asset, root_of, template

# The images of Swagger UI's style are data.
HEADERS = {
    **PAGE_HEADERS,
    "Content-Security-Policy": PAGE_HEADERS["Content-Security-Policy"].replace("img-src", "img-src data:"),
}
FILES = {"style": "swagger-ui.css", "own_style": "docs.css", "script": "swagger-ui-bundle.js", "own_script": "docs.js"}


def router(app: FastAPI, dependencies: Sequence[params.Depends] = ()) -> APIRouter:
    """Return the routes of the document and the page. The dependencies are checks before them, such as the guard."""
    routes = APIRouter(include_in_schema=False, dependencies=list(dependencies))

    @routes.get("/docs")
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(_page(root_of(request)), headers=HEADERS)

    @routes.api_route("/openapi.json", methods=["GET", "HEAD"])
    async def document(request: Request) -> JSONResponse:
        root = root_of(request)
        servers = {"servers": [{"url": root}]} if root else {}
        return JSONResponse({**_document(app, request), **servers})

    return routes


def _document(app: FastAPI, request: Request) -> dict[str, Any]:
    services, whole = services_of(request), app.openapi()
    if services.settings.public_docs:
        return whole
    return openapi.shown(whole, lambda name: services.auth.allows(request, name))


def _page(root: str) -> str:
    files = {name: escape(asset(root, file)) for name, file in (FILES | {"icon": "icon.svg"}).items()}
    return template("docs.html").substitute(files, root=escape(root))
