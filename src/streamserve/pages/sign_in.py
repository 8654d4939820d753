"""The page for browsers without a session, and the guard on FastAPI's own pages."""

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from starlette.routing import Route

from streamserve.api.services import services_of
from streamserve.auth.guard import Auth
from streamserve.pages import assets


def wants_page(request: Request) -> bool:
    """Return whether a browser requests a page and may start a session here."""
    accepts = request.headers.get("accept", "")
    return services_of(request).auth.sessions is not None and request.method == "GET" and "text/html" in accepts


def sign_in(request: Request) -> HTMLResponse:
    """Return a page that asks for a key in place of the requested page and does not describe the server."""
    text = assets.page("sign_in.html", assets.root_of(request), "session.js")
    return HTMLResponse(text, status_code=401, headers={**assets.PAGE_HEADERS, "WWW-Authenticate": "Bearer"})


def guard_docs(app: FastAPI, auth: Auth) -> None:
    """Put FastAPI's own pages behind the guard, unless the settings make them public."""
    if auth.settings.public_docs:
        return
    own = {app.openapi_url, app.docs_url, app.redoc_url, app.swagger_ui_oauth2_redirect_url}
    for index, route in enumerate(app.router.routes):
        if isinstance(route, Route) and not isinstance(route, APIRoute) and route.path in own:
            app.router.routes[index] = APIRoute(
                route.path,
                route.endpoint,
                methods=["GET", "HEAD"],
                dependencies=auth.dependencies,
                include_in_schema=False,
                response_model=None,
                name=route.name,
            )
