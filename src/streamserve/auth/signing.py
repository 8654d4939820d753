"""Values that the server signs, gives away and knows again: sessions of browsers and tokens for one run."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import secrets
import time
from typing import Any, Literal

import orjson

from streamserve.auth.identity import AuthError
from streamserve.errors import Unauthenticated
from streamserve.settings import Settings

logger = logging.getLogger(__name__)

Purpose = Literal["session", "share"]
MIN_SECRET = 32
# Our own are a few hundred bytes.
MAX_LENGTH = 4096


class Signer:
    """Signs by HMAC-SHA256; what is made for one purpose is nothing for another.

    Args:
        secret: at least 32 bytes.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def of(cls, settings: Settings) -> Signer:
        """The signer of the settings' secret, or of a random one that ends with the process.

        Raises:
            ValueError: the secret is too short.
        """
        if settings.secret is None:
            if settings.store.startswith("redis") or (settings.workers or 1) > 1:
                logger.warning("STREAMSERVE_SECRET is not set: sessions and share tokens count at one worker only")
            return cls(secrets.token_bytes(MIN_SECRET))
        secret = settings.secret.get_secret_value().encode()
        if len(secret) < MIN_SECRET:
            raise AuthError(f"STREAMSERVE_SECRET: {MIN_SECRET} characters at least")
        return cls(secret)

    def sign(self, purpose: Purpose, content: dict[str, Any], expires_at: float) -> str:
        """The content with its expiry and a signature, fit for a cookie or a query."""
        body = orjson.dumps({**content, "exp": expires_at})
        return f"{_encode(body)}.{_encode(self._mac(purpose, body))}"

    def read(self, purpose: Purpose, signed: str) -> dict[str, Any]:
        """The content.

        Raises:
            Unauthenticated: this server has not signed it for this purpose, or its time is over.
        """
        body, mac = _parts(signed)
        if not hmac.compare_digest(mac, self._mac(purpose, body)):
            raise Unauthenticated.wrong(f"The {purpose} token is not valid")
        content: dict[str, Any] = orjson.loads(body)
        if content["exp"] <= time.time():
            raise Unauthenticated.wrong(f"The {purpose} token has expired")
        return content

    def _mac(self, purpose: Purpose, body: bytes) -> bytes:
        return hmac.digest(self._secret, purpose.encode() + b"\0" + body, hashlib.sha256)


def _encode(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _parts(signed: str) -> tuple[bytes, bytes]:
    body, _, mac = signed.partition(".")
    try:
        return _decode(body), _decode(mac)
    except (binascii.Error, ValueError):
        return b"", b""


def _decode(text: str) -> bytes:
    if len(text) > MAX_LENGTH:
        raise ValueError("too long")
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
