"""StreamServe: LangChain chains and LangGraph graphs, streamed over HTTP without losing a token."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from streamserve.catalog.chain import Chain

if TYPE_CHECKING:
    from streamserve.app import create_app
    from streamserve.auth import AuthError, Identity
    from streamserve.catalog.chain import InvalidChain
    from streamserve.catalog.registry import discover
    from streamserve.errors import Forbidden, NotFound, ServeError, Unauthenticated
    from streamserve.library import add_routes, configure
    from streamserve.settings import Settings
    from streamserve.user import User

__all__ = [
    "AuthError",
    "Chain",
    "Forbidden",
    "Identity",
    "InvalidChain",
    "NotFound",
    "ServeError",
    "Settings",
    "Unauthenticated",
    "User",
    "add_routes",
    "configure",
    "create_app",
    "discover",
]

# Loaded when first asked for: a chain module imports `Chain` alone, and the frameworks of the server take seconds.
_LAZY = {
    "AuthError": "streamserve.auth",
    "Forbidden": "streamserve.errors",
    "Identity": "streamserve.auth",
    "InvalidChain": "streamserve.catalog.chain",
    "NotFound": "streamserve.errors",
    "ServeError": "streamserve.errors",
    "Settings": "streamserve.settings",
    "Unauthenticated": "streamserve.errors",
    "User": "streamserve.user",
    "add_routes": "streamserve.library",
    "configure": "streamserve.library",
    "create_app": "streamserve.app",
    "discover": "streamserve.catalog.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
