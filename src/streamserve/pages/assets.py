"""The files of the pages, and the headers of pages and files."""

import hashlib
from functools import cache
from html import escape
from importlib.resources import files
from string import Template

from fastapi import Request

# Swagger UI of its own distribution, unchanged: see static/swagger-ui.sha256.
SWAGGER, SWAGGER_STYLE = "swagger-ui-bundle.js", "swagger-ui.css"
SCRIPTS = ("docs.js", "home.js", "panel.js", "questions.js", "runs.js", "session.js", "transcript.js", SWAGGER)
STYLES = ("docs.css", "home.css", SWAGGER_STYLE)
MEDIA_TYPES = {
    **dict.fromkeys(SCRIPTS, "text/javascript"),
    **dict.fromkeys(STYLES, "text/css"),
    "icon.svg": "image/svg+xml",
}


PAGE_HEADERS = {
    # A page shows the request's own host, so no cache may keep it for others.
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
ASSET_HEADERS = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}


def root_of(request: Request) -> str:
    """Return the application's root path, without a slash at its end."""
    return str(request.scope.get("root_path", "")).rstrip("/")


@cache
def read(name: str) -> bytes:
    """Return a file of the folder static/."""
    return (files("streamserve.pages") / "static" / name).read_bytes()


@cache
def version(name: str) -> str:
    """Return a short hash of a file, with which caches may keep the file forever."""
    return hashlib.sha256(read(name)).hexdigest()[:12]


def asset(root: str, name: str) -> str:
    """Return the address of a file of the folder static/."""
    return f"{root}/static/{name}?v={version(name)}"


def template(name: str) -> Template:
    """Return a template of the folder static/."""
    return Template(read(name).decode())


def page(name: str, root: str, script: str, **parts: str) -> str:
    """Return a page of the folder static/, with its parts, a script, the style and the icon."""
    addresses = {"script": script, "style": "home.css", "icon": "icon.svg"}
    found = {key: escape(asset(root, file)) for key, file in addresses.items()}
    return template(name).substitute(found, root=escape(root), **parts)
