"""The guard: the dependency of every route that shows or starts something, made from the settings."""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from fastapi import Depends, Request, Security, params
from fastapi.security import APIKeyHeader, HTTPBearer

from streamserve.auth.identity import AuthError, Identity, Verifier, claims_of, scopes_of
from streamserve.auth.keys import KeyFile
from streamserve.auth.sessions import Sessions
from streamserve.auth.signing import Signer
from streamserve.errors import Forbidden, Unauthenticated
from streamserve.settings import Settings

logger = logging.getLogger(__name__)

# The headers by which proxies name a caller; a proxy on this machine may forward callers from anywhere.
FORWARDING = frozenset({b"forwarded", b"via", b"x-forwarded", b"x-forwarded-by", b"x-forwarded-for"}) | {
    *(b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-prefix", b"x-forwarded-proto", b"x-forwarded-server"),
    *(b"x-real-ip", b"x-client-ip", b"cf-connecting-ip", b"true-client-ip"),
}
NO_AUTHENTICATION = (
    "This server has no authentication, so it answers this machine only: set STREAMSERVE_AUTH, "
    "or STREAMSERVE_INSECURE_PUBLIC=true to serve everybody"
)
DECLARED = [
    Security(HTTPBearer(auto_error=False, scheme_name="bearer", description="An API key or a token.")),
    Security(APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="key")),
]


class Auth:
    """The authentication of one application: its guard, its sessions and the scopes of its chains.

    Args:
        settings: `auth` and the settings that it needs.
        guard: the team's own dependency, in place of the one that the settings name.

    Raises:
        AuthError: the settings are invalid, or they name a guard besides the given one.
    """

    def __init__(self, settings: Settings, guard: Callable[..., Any] | None = None) -> None:
        self.settings = settings
        self.signer = Signer.of(settings)
        self._scopes: dict[str, frozenset[str]] = {}
        if guard is not None and settings.auth:
            raise AuthError("STREAMSERVE_AUTH is set, and create_app was given a guard: use one of them")
        self.sessions = _make_sessions(settings, self.signer)
        if settings.auth and self.sessions is None:
            guard = _import_guard(settings.auth)
        self.knows_callers = guard is not None or self.sessions is not None
        self.dependencies = self._dependencies(guard)

    def _dependencies(self, guard: Callable[..., Any] | None) -> list[params.Depends]:
        if self.sessions is not None:
            return [*DECLARED, Depends(self.sessions.identify)]
        if guard is not None:
            return [named_by(guard)]
        return [] if self.settings.insecure_public else [Depends(this_machine_only)]

    def require(self, scopes: Mapping[str, Iterable[str]]) -> None:
        """Add the scopes that callers need, all of them, by the chain's name."""
        if self.knows_callers:
            self._scopes |= {name: frozenset(needed) for name, needed in scopes.items() if needed}
        elif named := [name for name, needed in scopes.items() if needed]:
            logger.warning("the scopes of %s are not checked: there is no authentication", ", ".join(named))

    def allows(self, request: Request, chain: str) -> bool:
        """Return True if the caller has all of the chain's scopes."""
        needed = self._scopes.get(chain)
        return needed is None or needed <= scopes_of(request)

    def check(self, request: Request, chain: str) -> None:
        """Raise Forbidden unless the caller has all of the chain's scopes; the text names them."""
        if not self.allows(request, chain):
            raise Forbidden(f"This needs the scopes: {', '.join(sorted(self._scopes[chain]))}")

    def require_private(self) -> None:
        """Raise AuthError if there is no authentication and other machines reach the server's address."""
        if not self.knows_callers:
            require_private(self.settings)


def require_private(settings: Settings) -> None:
    """Raise AuthError if other machines reach the address, unless the settings allow it."""
    if not (settings.insecure_public or is_loopback(settings.host)):
        raise AuthError(f"STREAMSERVE_HOST={settings.host}: {NO_AUTHENTICATION}")


def is_loopback(host: str) -> bool:
    """Return True if only this machine reaches itself by this name or address."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


async def this_machine_only(request: Request) -> None:
    """Raise Forbidden unless the request came over loopback, through no proxy, and names this machine as its host.

    The host counts because of DNS rebinding: a page of another site, whose name resolves to 127.0.0.1, sends its
    own name.
    """
    server, port = request.scope.get("server") or ("", None)
    if not _is_this_machine(server, port is None, request.headers.get("host", "")):
        raise Forbidden(NO_AUTHENTICATION)
    if not FORWARDING.isdisjoint(name for name, _ in request.scope["headers"]):
        raise Forbidden(f"A proxy has forwarded this request. {NO_AUTHENTICATION}")


@lru_cache(maxsize=64)  # every request calls it
def _is_this_machine(server: str, is_unix_socket: bool, host: str) -> bool:
    try:
        ip_address(server)
    except ValueError:
        if not is_unix_socket:
            return True  # called in process, without a server
    else:
        if not is_loopback(server):
            return False
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def named_by(dependency: Callable[..., Any]) -> params.Depends:
    """Return the check that a team's dependency names the caller.

    It returns an Identity or a name, or sets `request.state.principal`. The check raises Unauthenticated if not.
    """

    async def guard(request: Request, found: Any = Depends(dependency)) -> None:  # noqa: B008 - FastAPI reads it
        if isinstance(found, str):
            found = Identity(found, scopes_of(request), claims=claims_of(request))
        if isinstance(found, Identity):
            found.attach(request)
        elif not getattr(request.state, "principal", None):
            logger.error("the guard accepted a request without naming its caller: %s", dependency)
            raise Unauthenticated()

    return cast(params.Depends, Depends(guard))


def _make_sessions(settings: Settings, signer: Signer) -> Sessions | None:
    kind, _, rest = settings.auth.partition(":")
    if kind == "keys" and rest:
        keys = KeyFile(Path(rest))
        keys.load()
        return Sessions(settings, signer, keys, keys)
    return Sessions(settings, signer, _make_jwt_verifier(settings), None) if settings.auth == "jwt:" else None


def _import_guard(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise AuthError(f"STREAMSERVE_AUTH takes keys:PATH, jwt: or MODULE:FUNCTION: {error}") from error
    if not callable(found):
        raise AuthError(f"STREAMSERVE_AUTH: {path} is not a function")
    return found  # type: ignore[no-any-return]


def _make_jwt_verifier(settings: Settings) -> Verifier:
    try:
        from streamserve.auth.json_web_tokens import JwtVerifier
    except ImportError as error:
        raise AuthError("STREAMSERVE_AUTH=jwt: install streamserve[jwt]") from error
    return JwtVerifier(settings)
