"""API keys of 256 random bits. A file keeps their SHA-256; a changed file is read at the next request."""

import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex, token_urlsafe

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamserve.auth.identity import MAX_NAME, AuthError, Identity
from streamserve.errors import Unauthenticated

logger = logging.getLogger(__name__)

# The fixed prefix lets secret scanners find a leaked key.
FORM = re.compile(r"streamserve_(?P<id>[0-9a-f]{12})_[A-Za-z0-9_-]{43}")
# No key has this hash. An unknown id is compared with it, so that the answer takes as long as for a known one.
NOBODY = "0" * 64


class StoredKey(BaseModel):
    """One key as the file keeps it.

    Args:
        id: public part of the key.
        principal: owner of the key; one principal may have several keys.
        hash: SHA-256 of the whole key.
        scopes: permissions of the key.
        created_at: time of creation, in seconds since 1970.
        expires_at: expiry, in seconds since 1970; None: never.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    principal: str = Field(min_length=1, max_length=MAX_NAME)
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: list[str] = []
    created_at: float
    expires_at: float | None = None

    @property
    def expired(self) -> bool:
        """True once the expiry has passed."""
        return self.expires_at is not None and self.expires_at <= time.time()

    @property
    def identity(self) -> Identity:
        """The identity of a caller who shows this key."""
        return Identity(self.principal, frozenset(self.scopes), self.id, self.expires_at)


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    keys: list[StoredKey] = []


class KeyFile:
    """The API keys of one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._keys: dict[str, StoredKey] = {}
        self._seen: tuple[int, ...] | None = None

    def load(self) -> None:
        """Read the file.

        Raises:
            AuthError: the file is missing or invalid.
        """
        try:
            self._seen = self._stat()
            stored = _Stored.model_validate_json(self.path.read_bytes())
        except OSError as error:
            raise AuthError(f"{self.path}: {error.strerror}; create one with `streamserve key new`") from None
        except ValidationError as error:
            places = "; ".join(f"{'.'.join(map(str, at['loc'])) or 'file'}: {at['msg']}" for at in error.errors())
            raise AuthError(f"{self.path} is not a file of keys: {places}") from None
        self._keys = {key.id: key for key in stored.keys}

    async def verify(self, credential: str) -> Identity:
        """Return the identity of a key's owner.

        Raises:
            Unauthenticated: the key is unknown or has expired.
        """
        self._refresh()
        form = FORM.fullmatch(credential)
        key = self._keys.get(form["id"]) if form else None
        same = hmac.compare_digest(digest(credential), key.hash if key else NOBODY)
        if key is None or not same:
            raise Unauthenticated.wrong("The key is not valid")
        return _require_current(key)

    def of_session(self, key_id: str) -> Identity:
        """Return the identity in a session that began with a key.

        Raises:
            Unauthenticated: the key has been revoked or has expired.
        """
        self._refresh()
        if (key := self._keys.get(key_id)) is None:
            raise Unauthenticated.wrong("The session's key was revoked")
        return _require_current(key)

    def add(self, principal: str, scopes: Sequence[str] = (), expires_at: float | None = None) -> str:
        """Create a key and return its text, which is not kept. The expiry is in seconds since 1970; None: never.

        Raises:
            ValueError: the name is invalid.
            AuthError: the file is invalid.
        """
        Identity(principal)
        key_id = token_hex(6)
        text = f"streamserve_{key_id}_{token_urlsafe(32)}"
        with self._edit() as keys:
            keys[key_id] = StoredKey(
                id=key_id,
                principal=principal,
                hash=digest(text),
                scopes=sorted(set(scopes)),
                created_at=time.time(),
                expires_at=expires_at,
            )
        return text

    def revoke(self, key_id: str) -> StoredKey:
        """Remove a key and return its record.

        Raises:
            ValueError: no key has this id.
        """
        with self._edit() as keys:
            if key_id not in keys:
                raise ValueError(f"{self.path} has no key {key_id}")
            return keys.pop(key_id)

    def all(self) -> list[StoredKey]:
        """Read the file and return its keys.

        Raises:
            AuthError: the file is missing or invalid.
        """
        self.load()
        return list(self._keys.values())

    def _refresh(self) -> None:
        try:
            if self._stat() != self._seen:
                self.load()
        except FileNotFoundError:
            self._keys, self._seen = {}, None  # a deleted file revokes all keys
        except (OSError, ValueError) as error:
            # A typing error in the file must not lock everybody out.
            logger.error("the file of keys is invalid, the previous keys stay valid: %s", error)

    def _stat(self) -> tuple[int, ...]:
        found = self.path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino

    @contextmanager
    def _edit(self) -> Iterator[dict[str, StoredKey]]:
        with self.path.with_name(f"{self.path.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.path.exists():
                self.load()
            yield self._keys
            self._write()

    def _write(self) -> None:
        keys = [key.model_dump() for key in self._keys.values()]
        with tempfile.NamedTemporaryFile("w", dir=self.path.parent, prefix=".keys-", delete=False) as new:
            new.write(json.dumps({"keys": keys}, indent=2) + "\n")
        # Readable by others: the server may run under another account, and the hash of a random key reveals nothing.
        os.chmod(new.name, self.path.stat().st_mode & 0o777 if self.path.exists() else 0o644)
        os.replace(new.name, self.path)


def digest(key: str) -> str:
    """Return the SHA-256 of a key. One round is enough, because 256 random bits cannot be guessed."""
    return hashlib.sha256(key.encode()).hexdigest()


def _require_current(key: StoredKey) -> Identity:
    if key.expired:
        raise Unauthenticated.wrong("The key has expired")
    return key.identity
