"""Signed values that the server gives away and reads back: browser sessions and tokens for one run."""

import hashlib
import logging
import secrets
import time
from typing import Any, Literal, Self, get_args

from itsdangerous import BadData, URLSafeSerializer

from streamserve.auth.identity import AuthError
from streamserve.errors import Unauthenticated
from streamserve.settings import Settings
from streamserve.stores.urls import workers_of

logger = logging.getLogger(__name__)

Purpose = Literal["session", "share"]
MIN_SECRET = 32
# The server's own values are a few hundred bytes.
MAX_LENGTH = 4096


class Signer:
    """Signs values by HMAC-SHA256, with one salt per purpose: a session's value is not accepted as a share token."""

    def __init__(self, secret: bytes) -> None:
        self._serializers = {purpose: _serializer(secret, purpose) for purpose in get_args(Purpose)}

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the signer of the settings' secret, or of a random secret that is lost with the process.

        Raises:
            AuthError: the secret is too short.
        """
        if settings.secret is None:
            if settings.store.startswith("redis") or workers_of(settings) > 1:
                logger.warning("STREAMSERVE_SECRET is not set: sessions and share tokens are valid at one worker only")
            return cls(secrets.token_bytes(MIN_SECRET))
        secret = settings.secret.get_secret_value().encode()
        if len(secret) < MIN_SECRET:
            raise AuthError(f"STREAMSERVE_SECRET: {MIN_SECRET} characters at least")
        return cls(secret)

    def sign(self, purpose: Purpose, content: dict[str, Any], expires_at: float) -> str:
        """Return the content with its expiry and a signature, fit for a cookie or a query."""
        return self._serializers[purpose].dumps({**content, "exp": expires_at})

    def read(self, purpose: Purpose, signed: str) -> dict[str, Any]:
        """Return the content of a signed value.

        Raises:
            Unauthenticated: this server has not signed it for this purpose, or it has expired.
        """
        if len(signed) > MAX_LENGTH:
            raise Unauthenticated.wrong(f"The {purpose} token is not valid")
        try:
            content: dict[str, Any] = self._serializers[purpose].loads(signed)
        except BadData:
            raise Unauthenticated.wrong(f"The {purpose} token is not valid") from None
        if content["exp"] <= time.time():
            raise Unauthenticated.wrong(f"The {purpose} token has expired")
        return content


def _serializer(secret: bytes, purpose: str) -> URLSafeSerializer:
    # Not the timed one, which knows one lifetime for all values: each share token has its own.
    signer = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    return URLSafeSerializer(secret, salt=f"streamserve.{purpose}", signer_kwargs=signer)
