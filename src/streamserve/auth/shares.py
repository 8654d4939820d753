"""Tokens for one run (`?token=`), for callers who cannot send headers (EventSource) or have no key."""

import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal
from urllib.parse import unquote_plus

from fastapi import Request
from pydantic import BaseModel, Field
from starlette.types import ASGIApp, Receive, Scope, Send

from streamserve.auth.guard import Auth
from streamserve.auth.identity import Identity
from streamserve.errors import Forbidden

Action = Literal["read", "cancel"]

# Seconds. A token cannot be revoked alone, so its life is bounded.
MAX_TIME = 7 * 86_400.0
# Bytes. Longer queries are not searched for a token.
MAX_QUERY = 8192
STATE = "share_token"


class ShareRequest(BaseModel):
    """The permissions of a token and its lifetime."""

    allow: Annotated[list[Action], Field(min_length=1, max_length=2)] = ["read"]
    expires_in: float = Field(3600.0, gt=0, le=MAX_TIME, description="Seconds.")


class Share(BaseModel):
    """A token, the address to give away, and the expiry in seconds since 1970."""

    token: str
    url: str
    expires_at: float


class ShareTokens:
    """ASGI middleware that moves `token` from the query to the scope's state, so that no log shows it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        take_token(scope)
        await self.app(scope, receive, send)


def take_token(scope: Scope) -> bool:
    """Move `token` from the query to the scope's state; return True if the request has one."""
    query: bytes = scope.get("query_string", b"")
    if query and len(query) <= MAX_QUERY:
        parts = [part.partition("=") for part in query.decode("latin-1").split("&")]
        # A name may be encoded, as in `to%6ben=`.
        tokens = [value for name, _, value in parts if unquote_plus(name) == "token"]
        if tokens:
            # In place: the server's log reads the same scope.
            rest = "&".join("".join(part) for part in parts if unquote_plus(part[0]) != "token")
            scope["query_string"] = rest.encode("latin-1")
            scope.setdefault("state", {})[STATE] = unquote_plus(tokens[0])
    return STATE in scope.get("state", {})


def shared(action: Action, auth_of: Callable[[Request], Auth]) -> Callable[[Request], Awaitable[None]]:
    """Return the dependency that requires a token for the path's run and for an action.

    Args:
        auth_of: returns the authentication of the application that a request came to.
    """

    async def allowed(request: Request) -> None:
        content = auth_of(request).signer.read("share", getattr(request.state, STATE))
        if content["run"] != request.path_params["run_id"] or action not in content["allow"]:
            raise Forbidden("The token is for another run or action")
        Identity(content["principal"], expires_at=content["exp"]).attach(request)
        request.state.shared = True

    return allowed


def is_shared(request: Request) -> bool:
    """Return True if the caller has shown a token for the run."""
    return bool(getattr(request.state, "shared", False))


def make(auth: Auth, run_id: str, principal: str, wanted: ShareRequest, base: str) -> Share:
    """Return a token for one run, whose holder calls in the owner's name. `base` is the run's path for the caller."""
    ends = time.time() + wanted.expires_in
    content: dict[str, Any] = {"run": run_id, "principal": principal, "allow": sorted(set(wanted.allow))}
    token = auth.signer.sign("share", content, ends)
    return Share(token=token, url=f"{base}/stream?token={token}", expires_at=ends)
