"""The caller as a chain sees it, under the names of LangGraph's server."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig

# The keys of a config that only the server sets. LangGraph makes its runtime's `server_info.user` from the first, and
# leaves every key with "auth" out of traces; the last one is for traces.
CONFIG_KEYS = (
    "langgraph_auth_user",
    "langgraph_auth_user_id",
    "langgraph_auth_permissions",
    "streamserve_principal",
)
_FIELDS = ("identity", "display_name", "is_authenticated", "permissions")


class User(Mapping[str, Any]):
    """The caller of a run: its fields and claims as a mapping, its fields also as attributes.

    Args:
        identity: the principal.
        permissions: the scopes.
        claims: further facts from the guard, such as the claims of a JSON Web Token.
        is_authenticated: False on a server without authentication.
    """

    __slots__ = ("claims", "identity", "is_authenticated", "permissions")

    def __init__(
        self,
        identity: str,
        permissions: Iterable[str] = (),
        claims: Mapping[str, Any] | None = None,
        *,
        is_authenticated: bool = True,
    ) -> None:
        self.identity = identity
        self.permissions = sorted(permissions)
        self.claims = dict(claims or {})
        self.is_authenticated = is_authenticated

    @property
    def display_name(self) -> str:
        """The claim `name`, or else the identity."""
        return str(self.claims.get("name") or self.identity)

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key) if key in _FIELDS else self.claims[key]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*_FIELDS, *self.claims)))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"User({self.identity!r})"  # claims may be private

    def configurable(self) -> dict[str, Any]:
        """Return the keys of a chain's config that tell who calls."""
        return dict(zip(CONFIG_KEYS, (self, self.identity, self.permissions, self.identity), strict=True))

    def public(self) -> dict[str, Any]:
        """Return the fields without the claims."""
        return {name: self[name] for name in _FIELDS}


def without_user(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the items of a config's part that others than the server may set."""
    return {key: value for key, value in values.items() if key not in CONFIG_KEYS}


def as_user(config: RunnableConfig, user: User | None) -> RunnableConfig:
    """Return a config whose own keys for the caller give way to those of a user."""
    if user is None:
        return config
    return {**config, "configurable": {**(config.get("configurable") or {}), **user.configurable()}}
