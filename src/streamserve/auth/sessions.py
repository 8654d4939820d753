"""Credentials of a request: a header, or a browser's session, which begins by sending a key once.

The session is a cookie that scripts cannot read and other sites cannot send: the playground's pages ask without
headers. A request with it that changes something must also come from a page of this server.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field, SecretStr

from streamserve.auth.identity import Identity
from streamserve.auth.signing import Signer
from streamserve.errors import Forbidden, Unauthenticated
from streamserve.settings import Settings

if TYPE_CHECKING:
    from streamserve.auth.identity import Verifier
    from streamserve.auth.keys import KeyFile

logger = logging.getLogger(__name__)

COOKIE = "streamserve_session"
MAX_CREDENTIAL = 8192
SAFE = ("GET", "HEAD", "OPTIONS")


class SessionRequest(BaseModel):
    """What begins a session."""

    key: SecretStr = Field(min_length=1, max_length=MAX_CREDENTIAL, description="An API key or a token.")


class SessionState(BaseModel):
    """Who asks in a session, and until when (seconds since 1970)."""

    principal: str
    expires_at: float


class Sessions:
    """Finds out who asks.

    Args:
        settings: how long a session lasts.
        signer: of its cookie.
        verifier: of keys or tokens.
        keys: where the verifier has keys; a session ends with the one that began it.
    """

    def __init__(self, settings: Settings, signer: Signer, verifier: Verifier, keys: KeyFile | None) -> None:
        self._settings = settings
        self._signer = signer
        self._verifier = verifier
        self._keys = keys

    async def identify(self, request: Request) -> None:
        """The guard: notes who asks.

        Raises:
            Unauthenticated: there is no credential, or it does not count.
            Forbidden: a page of another site asks with the browser's session.
        """
        try:
            (await self._identity(request)).asks(request)
        except Unauthenticated as refused:
            client = request.client.host if request.client else None
            logger.info("refused: %s", refused.text, extra={"client": client, "path": request.scope["path"]})
            raise

    async def _identity(self, request: Request) -> Identity:
        if credential := _credential(request):
            return await self._verifier.verify(credential)
        if cookie := request.cookies.get(COOKIE):
            identity = self._of_cookie(cookie)
            if request.method not in SAFE:
                require_own_page(request)
            return identity
        raise Unauthenticated()

    def _of_cookie(self, cookie: str) -> Identity:
        content = self._signer.read("session", cookie)
        if self._keys is not None:
            return self._keys.of_session(str(content["key"]))
        return Identity(content["principal"], frozenset(content["scopes"]), None, content["exp"])

    async def begin(self, asked: SessionRequest, request: Request, response: Response) -> SessionState:
        """Sets the cookie; the key is kept nowhere."""
        require_own_page(request)
        identity = await self._verifier.verify(asked.key.get_secret_value())
        ends = min(time.time() + self._settings.session_time, identity.expires_at or float("inf"))
        content = {"principal": identity.principal, "scopes": sorted(identity.scopes), "key": identity.key}
        response.set_cookie(COOKIE, self._signer.sign("session", content, ends), **_attributes(request))
        response.headers["Cache-Control"] = "no-store"
        return SessionState(principal=identity.principal, expires_at=ends)

    def router(self) -> APIRouter:
        """The routes under /session."""
        routes = APIRouter(prefix="/session", tags=["session"])
        unknown: dict[int | str, dict[str, Any]] = {
            401: {"description": "The credential does not count"},
            403: {"description": "From another site"},
        }
        routes.post("", summary="Begin a browser's session", responses=unknown)(self.begin)
        guard = [Depends(self.identify)]
        routes.delete("", summary="End it", status_code=204, dependencies=guard, responses=unknown)(end)
        return routes


async def end(request: Request) -> Response:
    """Drops the cookie."""
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, **_attributes(request))
    return response


def require_own_page(request: Request) -> None:
    """Lets in what a page of this server sends, and what no browser sends.

    Raises:
        Forbidden: a page of another origin asks.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None and site not in ("same-origin", "none"):
        raise Forbidden("A page of another site asks")
    if site is None and origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise Forbidden("A page of another site asks")


def _credential(request: Request) -> str | None:
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    return request.headers.get("x-api-key")


def _attributes(request: Request) -> dict[str, Any]:
    path = str(request.scope.get("root_path", "")).rstrip("/") or "/"
    return {"httponly": True, "samesite": "strict", "secure": request.scope["scheme"] == "https", "path": path}
