"""JSON Web Tokens (RFC 7519), verified as RFC 8725 demands: algorithms fixed; issuer, audience and expiry required."""

from typing import Any

import jwt

from streamserve.auth.identity import AuthError, Identity
from streamserve.auth.jwks import Jwks
from streamserve.errors import Unauthenticated
from streamserve.settings import Settings

SHARED = {"HS256", "HS384", "HS512"}
PUBLIC = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
MIN_SECRET = 32  # bytes: the length of the shortest hash
# Characters. A header's value is bounded anyway; longer text is not worth parsing.
MAX_LENGTH = 8192


class JwtVerifier:
    """Verifies the tokens of one issuer.

    Args:
        settings: the `jwt_*` settings: issuer, audience, and the keys' address or a shared secret.

    Raises:
        AuthError: a setting is missing or invalid.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else ""
        self._issuer = _require(settings.jwt_issuer, "ISSUER")
        self._audience = _require(settings.jwt_audience, "AUDIENCE")
        if bool(secret) == bool(settings.jwt_jwks_url):
            raise AuthError("STREAMSERVE_AUTH=jwt: set STREAMSERVE_JWT_JWKS_URL or STREAMSERVE_JWT_SECRET, not both")
        if secret and len(secret.encode()) < MIN_SECRET:
            raise AuthError(f"STREAMSERVE_JWT_SECRET: {MIN_SECRET} bytes at least")
        self._algorithms = _parse_algorithms(settings.jwt_algorithms, SHARED if secret else PUBLIC)
        self._secret = secret
        self._jwks = None if secret else Jwks(settings.jwt_jwks_url)

    async def verify(self, credential: str) -> Identity:
        """Return the identity that a token names.

        Raises:
            Unauthenticated: the token is invalid, is meant for another server, or has expired.
            IdentityUnavailable: the issuer's keys are unreachable.
        """
        if len(credential) > MAX_LENGTH:
            raise Unauthenticated.wrong("The token is not valid")
        try:
            return self._identity(self._decode(credential, await self._key(credential)))
        except jwt.ExpiredSignatureError:
            raise Unauthenticated.wrong("The token has expired") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
            # The library's own text reveals more than a caller should know.
            raise Unauthenticated.wrong("The token is not valid") from None

    async def _key(self, token: str) -> Any:
        header = jwt.get_unverified_header(token)
        if header.get("alg") not in self._algorithms:
            raise jwt.InvalidAlgorithmError
        return self._secret if self._jwks is None else await self._jwks.key(header.get("kid"))

    def _decode(self, token: str, key: Any) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=self._algorithms,
            issuer=self._issuer,
            audience=self._audience,
            leeway=self._settings.jwt_leeway,
            options={"require": ["exp", "iss", "aud"]},
        )

    def _identity(self, claims: dict[str, Any]) -> Identity:
        principal = claims.get(self._settings.jwt_principal, "")
        scopes = _parse_scopes(claims.get(self._settings.jwt_scopes) or [])
        return Identity(principal, scopes, None, float(claims["exp"]), claims)


def _parse_scopes(claim: Any) -> frozenset[str]:
    # The keys of an object are no scopes: their values may say that the caller lacks them.
    if not isinstance(claim, str | list | dict):
        raise TypeError("scopes are a text or a list")
    named = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else ()
    return frozenset(scope for scope in named if isinstance(scope, str))


def _require(value: str, name: str) -> str:
    if not value:
        raise AuthError(f"STREAMSERVE_AUTH=jwt: set STREAMSERVE_JWT_{name}")
    return value


def _parse_algorithms(text: str, known: set[str]) -> list[str]:
    named = text.replace(",", " ").split() or (["HS256"] if known is SHARED else ["RS256", "ES256"])
    if unknown := set(named) - known:
        raise AuthError(f"STREAMSERVE_JWT_ALGORITHMS: {', '.join(sorted(unknown))}: invalid with this kind of key")
    return named
