"""Fetches of the issuer's keys, and the callers who wait for them; the test moves the clock."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from streamserve.auth import AuthError, jwks
from streamserve.auth.jwks import COOLDOWN, LIFETIME, STALE, Jwks
from streamserve.errors import IdentityUnavailable, Unauthenticated
from tests.auth.support import Issuer, issuing
from tests.limits import LIMIT


class Clock:
    """The seconds that the module sees."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with issuing() as issuer:
        yield issuer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(jwks, "time", clock)
    return clock


@pytest.fixture
def keys(issuer: Issuer, clock: Clock) -> Jwks:
    return Jwks(issuer.url)


class Slow:
    """An issuer whose answer waits until the test lets it go."""

    def __init__(self, issuer: Issuer) -> None:
        self._document = issuer.document
        self.asked = threading.Event()
        self.free = threading.Event()
        issuer.document = self.answer  # type: ignore[method-assign]

    def answer(self) -> bytes:
        self.asked.set()
        self.free.wait(LIMIT)
        return self._document()


@pytest.mark.parametrize("url", ["http://issuer.example/keys", "ftp://localhost/keys", "localhost", ""])
def test_an_address_has_https_or_is_on_this_machine(url: str) -> None:
    with pytest.raises(AuthError, match="https://"):
        Jwks(url)
    for right in ("https://issuer.example/keys", "http://localhost/keys", "http://127.0.0.1:1/keys", "http://[::1]/k"):
        assert Jwks(right)


async def test_keys_are_fetched_again_after_their_lifetime(issuer: Issuer, clock: Clock, keys: Jwks) -> None:
    for now, requests in ((0.0, 1), (1.0, 1), (LIFETIME, 1), (LIFETIME + 1, 2), (LIFETIME + 2, 2)):
        clock.now = now
        assert (await keys.key("one")).key_id == "one"
        assert issuer.requests == requests


async def test_unknown_ids_cause_one_request_per_cooldown(issuer: Issuer, clock: Clock, keys: Jwks) -> None:
    for now, requests in ((0.0, 1), (COOLDOWN - 1, 1), (COOLDOWN, 2), (COOLDOWN + 1, 2)):
        clock.now = now
        with pytest.raises(Unauthenticated, match="unknown key"):
            await keys.key("made up")
        assert issuer.requests == requests


async def test_stale_keys_are_valid_for_an_hour(issuer: Issuer, clock: Clock, keys: Jwks) -> None:
    await keys.key("one")
    issuer.document = lambda: b"no keys"  # type: ignore[method-assign]
    clock.now = STALE
    assert (await keys.key("one")).key_id == "one"
    clock.now = STALE + 1
    with pytest.raises(IdentityUnavailable):
        await keys.key("one")


async def test_a_token_without_an_id_has_the_only_key(issuer: Issuer, keys: Jwks) -> None:
    assert (await keys.key(None)).key_id == "one"


async def test_a_token_without_an_id_has_none_of_several(issuer: Issuer, keys: Jwks) -> None:
    issuer.keys["two"] = issuer.keys["one"]
    for key_id in ("one", "two"):
        assert (await keys.key(key_id)).key_id == key_id
    with pytest.raises(Unauthenticated, match="unknown key"):
        await keys.key(None)


@pytest.mark.parametrize("stale", [False, True], ids=["unknown key", "stale keys"])
async def test_a_caller_without_a_valid_key_waits_for_it(
    issuer: Issuer, clock: Clock, keys: Jwks, stale: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "PATIENCE", 0.0)
    await keys.key("one")
    issuer.keys["two"] = rsa.generate_private_key(65537, 2048).public_key()
    clock.now = STALE + 1 if stale else COOLDOWN
    slow = Slow(issuer)
    callers = [asyncio.create_task(keys.key("one" if stale else "two")) for _ in range(3)]
    assert await asyncio.to_thread(slow.asked.wait, LIMIT)
    slow.free.set()
    assert {key.key_id for key in await asyncio.gather(*callers)} == {"one" if stale else "two"}
    assert issuer.requests == 2


async def test_a_known_key_waits_as_long_as_the_issuer_answers(
    issuer: Issuer, clock: Clock, keys: Jwks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "PATIENCE", LIMIT)
    await keys.key("one")
    issuer.keys = {"two": issuer.keys["one"]}
    clock.now = LIFETIME + 1
    with pytest.raises(Unauthenticated):  # withdrawn: the caller has waited for the new keys
        await keys.key("one")
    clock.now += LIFETIME + 1
    slow = Slow(issuer)
    first = asyncio.create_task(keys.key("two"))
    assert await asyncio.to_thread(slow.asked.wait, LIMIT)
    assert not first.done()
    assert (await keys.key("two")).key_id == "two"  # no second one waits
    assert not first.done()
    slow.free.set()
    assert (await first).key_id == "two"


@pytest.mark.parametrize("now", [LIFETIME + 1, STALE])
async def test_a_known_key_does_not_wait_beyond_its_patience(
    issuer: Issuer, clock: Clock, keys: Jwks, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    await keys.key("one")
    monkeypatch.setattr(jwks, "PATIENCE", 0.0)
    monkeypatch.setattr(jwks, "TIMEOUT", 10 * LIMIT)
    clock.now = now
    slow = Slow(issuer)
    async with asyncio.timeout(LIMIT):
        assert (await keys.key("one")).key_id == "one"
    assert not slow.free.is_set()
    slow.free.set()
