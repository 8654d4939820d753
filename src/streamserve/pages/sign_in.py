"""The page for browsers without a session."""

from fastapi import Request
from fastapi.responses import HTMLResponse

from streamserve.api.services import services_of
from streamserve.pages import assets


def wants_page(request: Request) -> bool:
    """Return whether a browser requests a page and may start a session here."""
    accepts = request.headers.get("accept", "")
    return services_of(request).auth.sessions is not None and request.method == "GET" and "text/html" in accepts


def sign_in(request: Request) -> HTMLResponse:
    """Return a page that asks for a key in place of the requested page and does not describe the server."""
    text = assets.page("sign_in.html", assets.root_of(request), "session.js")
    return HTMLResponse(text, status_code=401, headers={**assets.PAGE_HEADERS, "WWW-Authenticate": "Bearer"})
