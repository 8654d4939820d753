"""The home page: every chain with an example to try and to copy, and the page's files."""

import ast
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Self

from fastapi import APIRouter, Request, Response, params
from fastapi.responses import HTMLResponse
from pydantic_core import to_jsonable_python

from streamserve.api.services import services_of
from streamserve.auth.sessions import COOKIE
from streamserve.catalog.chain import Playground
from streamserve.catalog.registry import BrokenModule
from streamserve.doors.langserve.playground import playground_of
from streamserve.errors import NotFound
from streamserve.pages import assets
from streamserve.pages.assets import ASSET_HEADERS, MEDIA_TYPES, PAGE_HEADERS, root_of
from streamserve.serving.served import ServedRunnable

MAX_ROWS = 14  # of an example's text field


def router(
    chains: Iterable[ServedRunnable], broken: Sequence[BrokenModule] = (), dependencies: Sequence[params.Depends] = ()
) -> APIRouter:
    """Return the routes of the home page. The dependencies are checks before the page, such as the guard."""
    routes = APIRouter(include_in_schema=False)
    cards = [Card.of(served) for served in chains]

    @routes.get("/", dependencies=list(dependencies))
    async def home(request: Request) -> HTMLResponse:
        allowed = [card for card in cards if services_of(request).auth.allows(request, card.name)]
        return HTMLResponse(
            page(allowed, broken, origin_of(request), root_of(request), signed_in=COOKIE in request.cookies),
            headers=PAGE_HEADERS,
        )

    @routes.get("/static/{name}")
    async def static(name: str, v: str = "") -> Response:
        if name not in MEDIA_TYPES:
            raise NotFound
        headers = ASSET_HEADERS if v == assets.version(name) else {**ASSET_HEADERS, "Cache-Control": "no-cache"}
        return Response(assets.read(name), media_type=MEDIA_TYPES[name], headers=headers)

    return routes


@dataclass(frozen=True, slots=True)
class Card:
    """The page's part for one chain."""

    name: str
    description: str
    tags: Sequence[str]
    playground: Playground | None
    endpoint: str | None
    example: Any
    printing: str

    @classmethod
    def of(cls, served: ServedRunnable) -> Self:
        """Return the card of a served chain."""
        entry = served.served
        return cls(
            name=entry.name,
            description=entry.description,
            tags=entry.chain.tags,
            playground=playground_of(served),
            endpoint=next((name for name in ("stream", "invoke") if name not in entry.chain.not_served), None),
            example=to_jsonable_python(entry.chain.examples[0] if entry.chain.examples else {}),
            printing=_printing(served),
        )

    def html(self, origin: str, root: str) -> str:
        """Return the card as HTML. The origin is scheme and host, such as `http://127.0.0.1:8000`."""
        return assets.template("chain.html").substitute(
            name=self.name,
            root=escape(root),
            description="".join(f"<p>{escape(part)}</p>" for part in re.split(r"\n(?:[^\S\n]*\n)+", self.description)),
            tags=_list("tags", [escape(tag) for tag in self.tags]),
            playground=_link(f"{root}/{self.name}/playground/", "Playground") if self.playground else "",
            form=self._form() if self.endpoint == "stream" else "",
            snippets=self._snippets(origin, root) if self.endpoint else "",
        )

    def _form(self) -> str:
        example = json.dumps(self.example, ensure_ascii=False, indent=2)
        rows = min(example.count("\n") + 1, MAX_ROWS)
        return assets.template("try.html").substitute(name=self.name, example=escape(example), rows=rows)

    def _snippets(self, origin: str, root: str) -> str:
        code = {"curl": self._curl(origin, root), "python": self._python(origin, root)}
        return assets.template("snippets.html").substitute(name=self.name, **code)

    def _curl(self, origin: str, root: str) -> str:
        data = shlex.quote(json.dumps({"input": self.example}, ensure_ascii=False))
        return (
            f"curl -N {_url(origin, f'{root}/{self.name}/{self.endpoint}')} \\\n"
            f"  -H 'Content-Type: application/json' \\\n  -d {escape(data)}"
        )

    def _python(self, origin: str, root: str) -> str:
        url, given = _url(origin, f"{root}/{self.name}"), escape(_literal(self.example))
        chain = f'from streamserve_sdk import RemoteRunnable\n\nchain = RemoteRunnable("{url}")\n'
        if self.endpoint == "invoke":
            return f"{chain}print(chain.invoke({given}))"
        return f"{chain}for chunk in chain.stream({given}):\n    {escape(self.printing)}"


def page(
    cards: Sequence[Card], broken: Sequence[BrokenModule], origin: str, root: str, *, signed_in: bool = False
) -> str:
    """Return the whole page as HTML, with a button that ends the session of a signed-in browser."""
    index = [f'<a href="#{card.name}">{card.name}</a>' for card in cards]
    return assets.page(
        "home.html",
        root,
        "home.js",
        title=f"{len(cards)} chain{'' if len(cards) == 1 else 's'}",
        session='<button type="button" name="sign-out">Sign out</button>' if signed_in else "",
        broken=_broken(broken) if broken else "",
        index=_list("index", index) if len(cards) > 1 else "",
        chains="".join(card.html(origin, root) for card in cards),
    )


def origin_of(request: Request) -> str:
    """Return scheme and host from the request's headers; the page's script replaces them by the browser's."""
    host = request.headers.get("host", "")
    if not re.fullmatch(r"[\w.-]+(:\d+)?|\[[0-9a-fA-F:.]+\](:\d+)?", host, re.ASCII):
        host = ":".join(str(part) for part in request.scope.get("server") or ("localhost",) if part)
    return f"{request.scope['scheme']}://{host}"


def _url(origin: str, path: str) -> str:
    return f'<span class="origin">{escape(origin)}</span>{escape(path)}'


def _link(href: str, text: str) -> str:
    return f'<a href="{escape(href)}">{text}</a>'


def _list(kind: str, items: Sequence[str]) -> str:
    return f'<ul class="{kind}">{"".join(f"<li>{item}</li>" for item in items)}</ul>' if items else ""


def _broken(modules: Sequence[BrokenModule]) -> str:
    items = "".join(
        f'<li><code class="place">{escape(module.place)}</code><code>{escape(module.cause)}</code></li>'
        for module in modules
    )
    return f'<section class="broken"><h2>Left out: broken modules</h2><ul>{items}</ul></section>'


def _printing(served: ServedRunnable) -> str:
    if served.get_output_schema().model_json_schema().get("type") == "string":
        return 'print(chunk, end="", flush=True)'
    return 'print(chunk.text, end="", flush=True)' if playground_of(served) == "chat" else "print(chunk)"


def _literal(value: Any) -> str:
    """Return a value as Python source, as JSON where possible because formatters write its quotes."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        same = ast.literal_eval(text) == value
    except ValueError:
        same = False
    return text if same else repr(value)
