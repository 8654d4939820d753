"""API keys: 256 random bits each, of which a file keeps the SHA-256 only. A changed file counts at the next request."""

from __future__ import annotations

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

# A fixed beginning, so that scanners of repositories find a key that leaked.
FORM = re.compile(r"streamserve_(?P<id>[0-9a-f]{12})_[A-Za-z0-9_-]{43}")
NOBODY = "0" * 64


class StoredKey(BaseModel):
    """What the file keeps of a key.

    Args:
        id: the part of the key that may be shown.
        principal: whose it is; several keys may be the same principal's.
        hash: SHA-256 of the whole key.
        scopes: what it may call.
        created_at: seconds since 1970.
        expires_at: likewise; None: never.
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
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= time.time()

    @property
    def identity(self) -> Identity:
        """Who asks with it."""
        return Identity(self.principal, frozenset(self.scopes), self.id, self.expires_at)


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    keys: list[StoredKey] = []


class KeyFile:
    """The keys of a file.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._keys: dict[str, StoredKey] = {}
        self._seen: tuple[int, ...] | None = None

    def load(self) -> None:
        """Reads the file.

        Raises:
            ValueError: there is no file, or it holds something else.
        """
        try:
            self._seen = self._mark()
            stored = _Stored.model_validate_json(self.path.read_bytes())
        except OSError as error:
            raise AuthError(f"{self.path}: {error.strerror}; `streamserve key new` makes one") from None
        except ValidationError as error:
            places = "; ".join(f"{'.'.join(map(str, at['loc'])) or 'file'}: {at['msg']}" for at in error.errors())
            raise AuthError(f"{self.path} is no file of keys: {places}") from None
        self._keys = {key.id: key for key in stored.keys}

    async def verify(self, credential: str) -> Identity:
        """Who asks with a key.

        Raises:
            Unauthenticated: there is no such key, or its time is over.
        """
        self._refresh()
        form = FORM.fullmatch(credential)
        key = self._keys.get(form["id"]) if form else None
        same = hmac.compare_digest(digest(credential), key.hash if key else NOBODY)
        if key is None or not same:
            raise Unauthenticated.wrong("The key is not valid")
        return _current(key)

    def of_session(self, key_id: str) -> Identity:
        """Who asks in a session that a key began.

        Raises:
            Unauthenticated: the key is gone, or its time is over.
        """
        self._refresh()
        if (key := self._keys.get(key_id)) is None:
            raise Unauthenticated.wrong("The session's key was revoked")
        return _current(key)

    def add(self, principal: str, scopes: Sequence[str] = (), expires_at: float | None = None) -> str:
        """Makes a key; the only time that it is known.

        Raises:
            ValueError: the name does not fit, or the file holds something else.
        """
        Identity(principal)
        key_id = token_hex(6)
        text = f"streamserve_{key_id}_{token_urlsafe(32)}"
        with self._changing() as keys:
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
        """Drops a key.

        Raises:
            ValueError: there is none of this id.
        """
        with self._changing() as keys:
            if key_id not in keys:
                raise ValueError(f"{self.path} has no key {key_id}")
            return keys.pop(key_id)

    def all(self) -> list[StoredKey]:
        """The keys as they are stored now.

        Raises:
            ValueError: there is no file, or it holds something else.
        """
        self.load()
        return list(self._keys.values())

    def _refresh(self) -> None:
        try:
            if self._mark() != self._seen:
                self.load()
        except FileNotFoundError:
            self._keys, self._seen = {}, None  # who drops the file wants nobody in
        except (OSError, ValueError) as error:
            # The keys of before: a slip of an editor must not lock everybody out.
            logger.error("the keys of before go on: %s", error)

    def _mark(self) -> tuple[int, ...]:
        found = self.path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino

    @contextmanager
    def _changing(self) -> Iterator[dict[str, StoredKey]]:
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
        # The hash of a random key tells nothing; the server may run under another account.
        os.chmod(new.name, self.path.stat().st_mode & 0o777 if self.path.exists() else 0o644)
        os.replace(new.name, self.path)


def digest(key: str) -> str:
    """The hash that is kept. A random key of 256 bits cannot be guessed, so one round is enough."""
    return hashlib.sha256(key.encode()).hexdigest()


def _current(key: StoredKey) -> Identity:
    if key.expired:
        raise Unauthenticated.wrong("The key has expired")
    return key.identity
