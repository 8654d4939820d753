"""Who asks, once a credential has said it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

from fastapi import Request

# A principal's name goes into keys of stores, where an index has a bound.
MAX_NAME = 255


class AuthError(ValueError):
    """The settings of authentication do not fit, and the server does not start."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A principal and what it may do.

    Args:
        principal: its name; runs, threads and idempotency keys belong to it.
        scopes: what it may call, as chains name it in their records.
        key: id of the API key that said so; None: another credential did.
        expires_at: when the credential ends, in seconds since 1970; None: never.

    Raises:
        ValueError: the name is empty, too long or has control characters.
    """

    principal: str
    scopes: frozenset[str] = frozenset()
    key: str | None = None
    expires_at: float | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.principal, str) and self.principal.isprintable()):
            raise ValueError("a principal's name is printable text")
        if not 0 < len(self.principal) <= MAX_NAME:
            raise ValueError(f"a principal's name has 1 to {MAX_NAME} characters")

    def asks(self, request: Request) -> None:
        """Notes on the request who asks."""
        request.state.principal = self.principal
        request.state.scopes = self.scopes


def scopes_of(request: Request) -> frozenset[str]:
    """The scopes of who asks, as the guard has found out (`request.state.scopes`)."""
    return cast("frozenset[str]", frozenset(getattr(request.state, "scopes", ())))


class Verifier(Protocol):
    """Says who asks with a credential."""

    async def verify(self, credential: str) -> Identity:
        """Who asks.

        Raises:
            Unauthenticated: the credential does not count.
        """
