"""Authentication: API keys, JSON Web Tokens or the team's own dependency; browser sessions; tokens for one run."""

from streamserve.auth.guard import Auth
from streamserve.auth.identity import AuthError, Identity, scopes_of

__all__ = ["Auth", "AuthError", "Identity", "scopes_of"]
