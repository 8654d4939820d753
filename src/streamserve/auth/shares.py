"""Tokens for one run, for whoever cannot send headers (EventSource) or is not to have a key: `?token=`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from streamserve.auth.guard import auth_of
from streamserve.auth.identity import Identity
from streamserve.errors import Forbidden

Action = Literal["read", "cancel"]

MAX_TIME = 7 * 86_400.0
STATE = "share_token"


class ShareRequest(BaseModel):
    """What a token allows, and for how long."""

    allow: Annotated[list[Action], Field(min_length=1, max_length=2)] = ["read"]
    expires_in: float = Field(3600.0, gt=0, le=MAX_TIME, description="Seconds.")


class Share(BaseModel):
    """A token, the address to give away, and when it ends (seconds since 1970)."""

    token: str
    url: str
    expires_at: float


class ShareTokens:
    """ASGI middleware that takes `token` out of the query, so that no log has it.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI says."""
        if scope["type"] == "http" and b"token=" in scope.get("query_string", b""):
            pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            tokens = [value for name, value in pairs if name == "token"]
            if tokens:
                # In place: the server's log reads the same scope.
                scope["query_string"] = urlencode([pair for pair in pairs if pair[0] != "token"]).encode()
                scope.setdefault("state", {})[STATE] = tokens[0]
        await self.app(scope, receive, send)


class SharedRoute(APIRoute):
    """A route for requests with a token only; without one, the route behind it answers."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As starlette's."""
        return super().matches(scope) if STATE in scope.get("state", {}) else (Match.NONE, {})


def shared(action: Action) -> Callable[[Request], Awaitable[None]]:
    """The dependency that lets in who has a token for this run and this action."""

    async def allowed(request: Request) -> None:
        content = auth_of(request).signer.read("share", getattr(request.state, STATE))
        if content["run"] != request.path_params["run_id"] or action not in content["allow"]:
            raise Forbidden("The token is for something else")
        Identity(content["principal"]).asks(request)
        request.state.shared = True

    return allowed


def is_shared(request: Request) -> bool:
    """Whether who asks has a token for the run."""
    return bool(getattr(request.state, "shared", False))


def make(request: Request, run_id: str, principal: str, asked: ShareRequest, base: str) -> Share:
    """A token for one run of a principal."""
    ends = time.time() + asked.expires_in
    content: dict[str, Any] = {"run": run_id, "principal": principal, "allow": sorted(set(asked.allow))}
    token = auth_of(request).signer.sign("share", content, ends)
    return Share(token=token, url=f"{base}/stream?token={token}", expires_at=ends)
