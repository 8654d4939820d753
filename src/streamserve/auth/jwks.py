"""The issuer's public keys (RFC 7517): fetched outside the event loop, cached, and fetched again within bounds."""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import jwt

from streamserve.auth.identity import AuthError
from streamserve.errors import IdentityUnavailable, Unauthenticated

logger = logging.getLogger(__name__)

# Seconds until the keys are fetched again, because the issuer may have withdrawn one.
LIFETIME = 300.0
# Minimum seconds between two fetches: tokens with made-up key ids must not become requests to the issuer.
COOLDOWN = 10.0
# Seconds for one fetch.
TIMEOUT = 5.0
# Seconds that a caller with a known key waits for a fetch: if the last one brought keys, and if it did not.
PATIENCE, IMPATIENCE = 0.5, 0.0
# Seconds for which fetched keys stay valid while the issuer is unreachable.
STALE = 3600.0


class Jwks:
    """The keys at one address.

    Args:
        url: an https:// address, or http:// on this machine.

    Raises:
        AuthError: the address is another kind.
    """

    def __init__(self, url: str) -> None:
        at = urlsplit(url)
        if at.scheme != "https" and not (at.scheme == "http" and at.hostname in ("127.0.0.1", "localhost", "::1")):
            raise AuthError("STREAMSERVE_JWT_JWKS_URL: an address with https://")
        self._client = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=TIMEOUT)
        # A slow issuer must not block the chains' own pool.
        self._thread = ThreadPoolExecutor(thread_name_prefix="jwks")
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched = self._tried = -STALE
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, key_id: str | None) -> jwt.PyJWK:
        """Return the key of an id. If a token names no id, return the issuer's only key.

        Raises:
            Unauthenticated: the issuer has no such key, or the id is missing and there are several.
            IdentityUnavailable: no keys could be fetched, for an hour or since the start.
        """
        found, age = self._find(key_id), time.monotonic() - self._fetched
        if found is None or age > LIFETIME:
            patience = PATIENCE if self._fetched >= self._tried else IMPATIENCE
            await self._refresh(TIMEOUT if found is None or age > STALE else patience)
            found = self._find(key_id)
        if time.monotonic() - self._fetched > STALE:
            raise IdentityUnavailable()
        if found is None:
            raise Unauthenticated.wrong("The token is signed by an unknown key")
        return found

    def _find(self, key_id: str | None) -> jwt.PyJWK | None:
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    async def _refresh(self, limit: float) -> None:
        """Fetch the keys, beside the callers, and wait up to a number of seconds for them."""
        if self._fetching is None or self._fetching.done():
            if time.monotonic() - self._tried < COOLDOWN:
                return
            self._tried = time.monotonic()
            self._fetching = asyncio.create_task(self._take_keys())
        await asyncio.wait({self._fetching}, timeout=limit)

    async def _take_keys(self) -> None:
        try:
            keys = await asyncio.get_running_loop().run_in_executor(self._thread, self._fetch)
        except Exception as error:  # of the library, the socket, HTTP or JSON
            logger.error("the issuer's keys could not be fetched: %r", error)
        else:
            self._keys, self._fetched = keys, time.monotonic()

    def _fetch(self) -> dict[str | None, jwt.PyJWK]:
        return {key.key_id: key for key in self._client.get_signing_keys()}
