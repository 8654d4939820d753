"""The files of the pages, and the headers that pages and files are sent with."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from fastapi import Request

SCRIPTS = ("home.js", "panel.js", "questions.js", "runs.js", "session.js", "transcript.js")
MEDIA_TYPES = {**dict.fromkeys(SCRIPTS, "text/javascript"), "home.css": "text/css", "icon.svg": "image/svg+xml"}


PAGE_HEADERS = {
    # The page shows the request's own host, so no cache may keep it for others.
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
    """The path under which the application is served."""
    return str(request.scope.get("root_path", "")).rstrip("/")


@cache
def read(name: str) -> bytes:
    """A file of the folder static/."""
    return (files("streamserve.pages") / "static" / name).read_bytes()


@cache
def version(name: str) -> str:
    """A short hash of a file, so that caches may keep it for ever under its address."""
    return hashlib.sha256(read(name)).hexdigest()[:12]


def asset(root: str, name: str) -> str:
    """The address of a file of the folder static/."""
    return f"{root}/static/{name}?v={version(name)}"
