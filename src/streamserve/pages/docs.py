"""The OpenAPI document, and /docs: the same as plain HTML, without scripts and without requests to other servers.

Each caller sees the chains that it may call; if the documentation is public, everybody sees all of them.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI, Request, params
from fastapi.responses import HTMLResponse, JSONResponse

from streamserve.api import openapi
from streamserve.api.services import services_of
from streamserve.pages.assets import PAGE_HEADERS, root_of, version

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>API</title><link rel="icon" href="{root}/static/icon.svg">
<link rel="stylesheet" href="{root}/static/home.css?v={css}"></head>
<body><main><h1>API</h1><p><a href="{root}/">Chains</a> · <a href="{root}/openapi.json">openapi.json</a></p>
{parts}</main></body></html>"""


def router(app: FastAPI, dependencies: Sequence[params.Depends] = ()) -> APIRouter:
    """Return the routes of the document and the page. The dependencies are checks before them, such as the guard."""
    routes = APIRouter(include_in_schema=False, dependencies=list(dependencies))

    @routes.get("/docs")
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(page(_document(app, request), root_of(request)), headers=PAGE_HEADERS)

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


def page(document: dict[str, Any], root: str) -> str:
    """Return an OpenAPI document as HTML."""
    parts: dict[str, list[str]] = defaultdict(list)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tag = (operation.get("tags") or ["server"])[0].strip("/")
            parts[tag].append(_operation(method.upper(), path, operation))
    shown = "".join(_part(tag, operations) for tag, operations in parts.items())
    return _PAGE.format(root=escape(root), css=version("home.css"), parts=shown)


def _part(tag: str, operations: list[str]) -> str:
    return f'<section id="/{escape(tag)}"><h2>{escape(tag)}</h2>{"".join(operations)}</section>'


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    title = escape(operation.get("summary") or operation.get("description") or "")
    rows = [_row(item["name"], item.get("description", "")) for item in operation.get("parameters", ())]
    answers = [_row(status, answer.get("description", "")) for status, answer in operation["responses"].items()]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    schema = f"<pre><code>{escape(json.dumps(body, indent=2))}</code></pre>" if body else ""
    head = f"<summary><code>{method} {escape(path)}</code> {title}</summary>"
    return f"<details>{head}{_list('Parameters', rows)}{schema}{_list('Answers', answers)}</details>"


def _row(name: str, text: str) -> str:
    return f"<li><code>{escape(name)}</code> {escape(text)}</li>"


def _list(title: str, rows: list[str]) -> str:
    return f"<h3>{title}</h3><ul>{''.join(rows)}</ul>" if rows else ""
