"""The guard: the dependency that every route but the probes has, made of the settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import Depends, Request, Security, params
from fastapi.security import APIKeyHeader, HTTPBearer

from streamserve.auth.identity import AuthError, Identity, Verifier, scopes_of
from streamserve.auth.keys import KeyFile
from streamserve.auth.sessions import Sessions
from streamserve.auth.signing import Signer
from streamserve.errors import Forbidden, Unauthenticated
from streamserve.settings import Settings

logger = logging.getLogger(__name__)

NO_AUTHENTICATION = (
    "This server has no authentication, so it answers this machine only: set STREAMSERVE_AUTH, "
    "or STREAMSERVE_INSECURE_PUBLIC=true to serve everybody"
)
DECLARED = [
    Security(HTTPBearer(auto_error=False, scheme_name="bearer", description="An API key or a token.")),
    Security(APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="key")),
]


class Auth:
    """How an application knows who asks.

    Args:
        settings: `auth` and what it needs.
        guard: the team's own dependency, in place of the settings'.

    Raises:
        AuthError: the settings do not fit, or name a guard besides the given one.
    """

    def __init__(self, settings: Settings, guard: Callable[..., Any] | None = None) -> None:
        self.settings = settings
        self.signer = Signer.of(settings)
        self._scopes: dict[str, frozenset[str]] = {}
        if guard is not None and settings.auth:
            raise AuthError("STREAMSERVE_AUTH is set, and create_app was given a guard: one of them")
        self.sessions = _sessions(settings, self.signer)
        if settings.auth and self.sessions is None:
            guard = _imported(settings.auth)
        self.knows_callers = guard is not None or self.sessions is not None
        self.dependencies = self._dependencies(guard)

    def _dependencies(self, guard: Callable[..., Any] | None) -> list[params.Depends]:
        if self.sessions is not None:
            return [*DECLARED, Depends(self.sessions.identify)]
        if guard is not None:
            return [Depends(_told(guard))]
        return [] if self.settings.insecure_public else [Depends(this_machine_only)]

    def require(self, scopes: Mapping[str, Iterable[str]]) -> None:
        """Says which scopes the chains need.

        Args:
            scopes: of each chain's name; a caller needs all of them.
        """
        if self.knows_callers:
            self._scopes = {name: frozenset(needed) for name, needed in scopes.items() if needed}
        elif named := [name for name, needed in scopes.items() if needed]:
            logger.warning("nobody is asked for the scopes of %s: there is no authentication", ", ".join(named))

    def allows(self, request: Request, chain: str) -> bool:
        """Whether who asks has the chain's scopes."""
        needed = self._scopes.get(chain)
        return needed is None or needed <= scopes_of(request)

    def check(self, request: Request, chain: str) -> None:
        """Refuses who has not the chain's scopes.

        Raises:
            Forbidden: naming those that the chain needs.
        """
        if not self.allows(request, chain):
            raise Forbidden(f"This needs the scopes: {', '.join(sorted(self._scopes[chain]))}")

    def require_private(self) -> None:
        """Refuses to start a server that everybody could use.

        Raises:
            ValueError: there is no authentication, and the server listens on other addresses than this machine's.
        """
        if not self.knows_callers:
            require_private(self.settings)


def auth_of(request: Request) -> Auth:
    """The application's."""
    found = request.app.state.auth
    assert isinstance(found, Auth)
    return found


def require_private(settings: Settings) -> None:
    """Refuses an address that others reach, unless the settings say so.

    Raises:
        AuthError: naming the settings.
    """
    if not (settings.insecure_public or is_loopback(settings.host)):
        raise AuthError(f"STREAMSERVE_HOST={settings.host}: {NO_AUTHENTICATION}")


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's, and no other machine's way to it."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


async def this_machine_only(request: Request) -> None:
    """Answers whoever came by this machine's own address, and asked for it by that name.

    A page of another site whose name leads to 127.0.0.1 (DNS rebinding) comes with its own name.

    Raises:
        Forbidden: somebody else did.
    """
    server = (request.scope.get("server") or ("",))[0]
    if not _is_this_machine(server, request.headers.get("host", "")):
        raise Forbidden(NO_AUTHENTICATION)


@lru_cache(maxsize=64)  # asked at each request
def _is_this_machine(server: str, asked_for: str) -> bool:
    try:
        ip_address(server)
    except ValueError:
        return True  # not a TCP socket
    return is_loopback(server) and is_loopback(urlsplit(f"//{asked_for}").hostname or "")


def _told(dependency: Callable[..., Any]) -> Callable[..., Any]:
    """The team's dependency, which returns an Identity or a name, or sets `request.state.principal`."""

    async def guard(request: Request, found: Any = Depends(dependency)) -> None:  # noqa: B008 - FastAPI reads it
        if isinstance(found, str):
            found = Identity(found, scopes_of(request))
        if isinstance(found, Identity):
            found.asks(request)
        elif not getattr(request.state, "principal", None):
            logger.error("the guard let somebody in and did not say whom: %s", dependency)
            raise Unauthenticated()

    return guard


def _sessions(settings: Settings, signer: Signer) -> Sessions | None:
    kind, _, rest = settings.auth.partition(":")
    if kind == "keys" and rest:
        keys = KeyFile(Path(rest))
        keys.load()
        return Sessions(settings, signer, keys, keys)
    return Sessions(settings, signer, _tokens(settings), None) if settings.auth == "jwt:" else None


def _imported(said: str) -> Callable[..., Any]:
    module, _, name = said.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise AuthError(f"STREAMSERVE_AUTH: keys:PATH, jwt: or MODULE:FUNCTION; {error}") from error
    if not callable(found):
        raise AuthError(f"STREAMSERVE_AUTH: {said} is no function")
    return found  # type: ignore[no-any-return]


def _tokens(settings: Settings) -> Verifier:
    try:
        from streamserve.auth.tokens import JwtVerifier
    except ImportError as error:
        raise AuthError("STREAMSERVE_AUTH=jwt: install streamserve[jwt]") from error
    return JwtVerifier(settings)
