"""The credential of a request: a header, or the session of a browser that has sent a key once.

The session is a cookie, because the playground's pages send no headers. Scripts cannot read it and other sites cannot
send it. A request that changes something with it must also come from a page of this server.
"""

import logging
import time
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field, SecretStr

from streamserve.auth.identity import Identity, Verifier
from streamserve.auth.keys import KeyFile
from streamserve.auth.signing import MAX_LENGTH, Signer
from streamserve.errors import BadRequest, Forbidden, Unauthenticated
from streamserve.settings import Settings

logger = logging.getLogger(__name__)

COOKIE = "streamserve_session"
MAX_CREDENTIAL = 8192
SAFE = ("GET", "HEAD", "OPTIONS")


class SessionRequest(BaseModel):
    """The body of `POST /session`."""

    key: SecretStr = Field(min_length=1, max_length=MAX_CREDENTIAL, description="An API key or a token.")


class SessionState(BaseModel):
    """The principal of a session, and its expiry in seconds since 1970."""

    principal: str
    expires_at: float


class Sessions:
    """Identifies callers by a header or a session. With a file of keys, a session ends with the key that began it."""

    def __init__(self, settings: Settings, signer: Signer, verifier: Verifier, keys: KeyFile | None) -> None:
        self._settings = settings
        self._signer = signer
        self._verifier = verifier
        self._keys = keys

    async def identify(self, request: Request) -> None:
        """Attach the caller's identity to the request; this is the guard.

        Raises:
            Unauthenticated: the credential is missing or invalid.
            Forbidden: a page of another site uses the browser's session.
        """
        try:
            identity = await self._identity(request)
            identity.attach(request)
            if self._settings.credential_check:
                request.state.recheck = partial(self._recheck, request, identity)
        except Unauthenticated as refused:
            client = request.client.host if request.client else None
            logger.info("refused: %s", refused.text, extra={"client": client, "path": request.scope["path"]})
            raise

    async def _recheck(self, request: Request, known: Identity) -> None:
        found = await self._identity(request)
        if found.principal != known.principal or not known.scopes <= found.scopes:
            raise Unauthenticated.wrong("The credential has lost a permission")

    async def _identity(self, request: Request) -> Identity:
        if credential := _find_credential(request):
            return await self._verifier.verify(credential)
        if cookie := request.cookies.get(COOKIE):
            identity = self._read_cookie(cookie)
            if request.method not in SAFE:
                require_own_page(request)
            return identity
        raise Unauthenticated()

    def _read_cookie(self, cookie: str) -> Identity:
        content = self._signer.read("session", cookie)
        if self._keys is not None:
            return self._keys.of_session(str(content["key"]))
        return Identity(
            content["principal"], frozenset(content["scopes"]), None, content["exp"], content.get("claims", {})
        )

    async def begin(self, body: SessionRequest, request: Request, response: Response) -> SessionState:
        """Set the session's cookie; the key itself is not stored."""
        require_own_page(request)
        identity = await self._verifier.verify(body.key.get_secret_value())
        ends = min(time.time() + self._settings.session_time, identity.expires_at or float("inf"))
        content = {"principal": identity.principal, "scopes": sorted(identity.scopes), "key": identity.key}
        signed = self._signer.sign("session", {**content, "claims": dict(identity.claims)}, ends)
        if len(signed) > MAX_LENGTH:
            raise BadRequest("The token has more claims than a session's cookie can hold: send it in a header")
        response.set_cookie(COOKIE, signed, **_attributes(request))
        response.headers["Cache-Control"] = "no-store"
        return SessionState(principal=identity.principal, expires_at=ends)

    def router(self) -> APIRouter:
        """Return the routes under /session."""
        routes = APIRouter(prefix="/session", tags=["session"])
        unknown: dict[int | str, dict[str, Any]] = {
            400: {"description": "The credential does not fit into a cookie"},
            403: {"description": "The request comes from another site"},
        }
        routes.post("", summary="Begin a browser's session", responses=unknown)(self.begin)
        guard = [Depends(self.identify)]
        routes.delete("", summary="End a browser's session", status_code=204, dependencies=guard, responses=unknown)(
            end
        )
        return routes


async def end(request: Request) -> Response:
    """Delete the session's cookie."""
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, **_attributes(request))
    return response


def require_own_page(request: Request) -> None:
    """Raise Forbidden if a browser sends the request for a page of another origin."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None and site not in ("same-origin", "none"):
        raise Forbidden("The request comes from a page of another site")
    if site is None and origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise Forbidden("The request comes from a page of another site")


def _find_credential(request: Request) -> str | None:
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    return request.headers.get("x-api-key")


def _attributes(request: Request) -> dict[str, Any]:
    path = str(request.scope.get("root_path", "")).rstrip("/") or "/"
    return {"httponly": True, "samesite": "strict", "secure": request.scope["scheme"] == "https", "path": path}
