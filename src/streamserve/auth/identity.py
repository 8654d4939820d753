"""The caller of a request, once a credential has named it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from fastapi import Request

from streamserve.errors import Unauthenticated

# A principal's name is part of the stores' keys, and their indexes are bounded.
MAX_NAME = 255


class AuthError(ValueError):
    """The settings of authentication are invalid, so the server does not start."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A principal and its permissions.

    Args:
        principal: name of the caller, who owns runs, threads and idempotency keys.
        scopes: permissions, as the chains name them in their records.
        key: id of the API key that was shown; None: another credential was.
        expires_at: expiry of the credential, in seconds since 1970; None: never.
        claims: further facts about the caller for the chain, as JSON values; a browser can read those of its session.

    Raises:
        ValueError: the name is empty, too long or has control characters.
    """

    principal: str
    scopes: frozenset[str] = frozenset()
    key: str | None = None
    expires_at: float | None = None
    claims: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not (isinstance(self.principal, str) and self.principal.isprintable()):
            raise ValueError("a principal's name is printable text")
        if not 0 < len(self.principal) <= MAX_NAME:
            raise ValueError(f"a principal's name has 1 to {MAX_NAME} characters")

    def attach(self, request: Request) -> None:
        """Store the principal, its scopes and its claims in `request.state`."""
        request.state.principal = self.principal
        request.state.scopes = self.scopes
        request.state.claims = self.claims
        if self.expires_at is not None:
            request.state.recheck = self.require_unexpired

    async def require_unexpired(self) -> None:
        """Raise Unauthenticated if the credential has expired."""
        if self.expires_at is not None and self.expires_at <= time.time():
            raise Unauthenticated.wrong("The credential has expired")


def scopes_of(request: Request) -> frozenset[str]:
    """Return the caller's scopes, which the guard has stored in `request.state.scopes`."""
    return cast("frozenset[str]", frozenset(getattr(request.state, "scopes", ())))


def claims_of(request: Request) -> Mapping[str, Any]:
    """Return the caller's claims, which the guard has stored in `request.state.claims`."""
    return cast("Mapping[str, Any]", request.scope.get("state", {}).get("claims", {}))


class Verifier(Protocol):
    """Finds the caller of a credential."""

    async def verify(self, credential: str) -> Identity:
        """Return the caller's identity.

        Raises:
            Unauthenticated: the credential is invalid.
        """
