"""JSON Web Tokens: valid and invalid ones, and the number of requests to the issuer."""

from __future__ import annotations

import asyncio
import base64
import hmac
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from streamserve.auth import AuthError, json_web_tokens, jwks
from streamserve.auth.json_web_tokens import JwtVerifier
from streamserve.errors import IdentityUnavailable, Unauthenticated
from streamserve.settings import Settings
from tests.auth.support import AUDIENCE, ISSUER, PRIVATE, SECRET, Issuer, issuing, token


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with issuing() as issuer:
        yield issuer


def verifier(**settings: Any) -> JwtVerifier:
    return JwtVerifier(
        Settings(_env_file=None, auth="jwt:", **{"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, **settings})
    )


@pytest.fixture
def verify(issuer: Issuer) -> Any:
    return verifier(jwt_jwks_url=issuer.url).verify


async def test_a_token_names_the_principal_and_its_scopes(verify: Any) -> None:
    identity = await verify(token(scope="talk listen"))
    assert (identity.principal, sorted(identity.scopes)) == ("ann", ["listen", "talk"])
    assert identity.claims["iss"] == ISSUER
    assert identity.expires_at == identity.claims["exp"]


async def test_the_claims_of_other_issuers_are_named_by_settings(issuer: Issuer) -> None:
    verify = verifier(jwt_jwks_url=issuer.url, jwt_principal="email", jwt_scopes="roles").verify
    identity = await verify(token(email="ann@example.org", roles=["talk"]))
    assert (identity.principal, sorted(identity.scopes)) == ("ann@example.org", ["talk"])


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://other.example"},
        {"aud": "others"},
        {"exp": time.time() - 3600},
        {"nbf": time.time() + 3600},
        {"iat": time.time() + 3600},
        {"iss": None},
        {"aud": None},
        {"exp": None},
        {"sub": None},
        {"sub": ""},
        {"sub": "a\nb"},
        {"sub": "a" * 256},
        {"scope": 3},
        {"exp": 10**400},
        {"exp": float("inf")},
        {"nbf": float("inf")},
        {"iat": float("-inf")},
    ],
    ids=lambda claims: "-".join(claims) + str(type(next(iter(claims.values()))).__name__),
)
async def test_a_token_with_wrong_claims_is_invalid(verify: Any, claims: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        await verify(token(**claims))


@pytest.mark.parametrize(
    "scope", [{"talk": False}, [["talk"]], [{"talk": 1}], [None, 3], {}, []], ids=lambda scope: str(scope)
)
async def test_scopes_are_texts_and_nothing_else(verify: Any, scope: Any) -> None:
    assert (await verify(token(scope=scope))).scopes == frozenset()


async def test_clocks_may_differ_a_little(verify: Any) -> None:
    assert await verify(token(exp=time.time() - 10, nbf=time.time() - 60))
    assert await verify(token(nbf=time.time() + 10))
    with pytest.raises(Unauthenticated, match="expired"):
        await verify(token(exp=time.time() - 40))


async def test_a_public_key_is_not_accepted_as_a_shared_secret(verify: Any) -> None:
    public = PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    honest = token(key=SECRET, algorithm="HS256").rpartition(".")[0]
    mac = base64.urlsafe_b64encode(hmac.digest(public, honest.encode(), "sha256")).rstrip(b"=").decode()
    for forged in (
        f"{honest}.{mac}",
        token(key="", algorithm="none"),
        token(algorithm="RS512"),  # the issuer's key, but an algorithm that the settings do not name
    ):
        with pytest.raises(Unauthenticated):
            await verify(forged)


async def test_a_token_of_another_algorithm_causes_no_request(issuer: Issuer, verify: Any) -> None:
    with pytest.raises(Unauthenticated):
        await verify(token(key=SECRET, algorithm="HS256"))
    assert issuer.requests == 0
    assert await verify(token(kid=None))
    assert issuer.requests == 1


async def test_a_longer_token_than_the_bound_is_refused(verify: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    known = token()
    monkeypatch.setattr(json_web_tokens, "MAX_LENGTH", len(known))
    assert await verify(known)
    monkeypatch.setattr(json_web_tokens, "MAX_LENGTH", len(known) - 1)
    with pytest.raises(Unauthenticated):
        await verify(known)


@pytest.mark.parametrize("email", [5, None, ["ann"], ""])
async def test_a_principal_is_a_text(issuer: Issuer, email: Any) -> None:
    with pytest.raises(Unauthenticated):
        await verifier(jwt_jwks_url=issuer.url, jwt_principal="email").verify(token(email=email))


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "x" * 9000, "é.é.é", "e30.e30."])
async def test_text_that_is_not_a_token_is_refused(verify: Any, text: str) -> None:
    with pytest.raises(Unauthenticated):
        await verify(text)


async def test_a_changed_token_is_invalid(verify: Any) -> None:
    header, _, mac = token().split(".")
    body = base64.urlsafe_b64encode(b'{"sub":"bob"}').rstrip(b"=").decode()
    with pytest.raises(Unauthenticated):
        await verify(f"{header}.{body}.{mac}")


async def test_the_issuer_is_asked_once_for_many_tokens(issuer: Issuer, verify: Any) -> None:
    for _ in range(5):
        await verify(token())
    assert issuer.requests == 1


async def test_unknown_key_ids_cause_no_request_to_the_issuer(issuer: Issuer, verify: Any) -> None:
    for number in range(20):
        with pytest.raises(Unauthenticated):
            await verify(token(kid=f"made-up-{number}"))
    assert issuer.requests == 1


async def test_a_new_key_of_the_issuer_is_found(issuer: Issuer, verify: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await verify(token())
    new = rsa.generate_private_key(65537, 2048)
    issuer.keys = {"two": new.public_key()}
    monkeypatch.setattr(jwks, "COOLDOWN", 0.0)
    assert await verify(token(key=new, kid="two"))
    with pytest.raises(Unauthenticated):  # withdrawn by the issuer
        await verify(token())


async def test_an_unreachable_issuer_is_a_failure_of_the_server(
    verify: Any, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer.document = lambda: b"no keys"  # type: ignore[method-assign]
    with pytest.raises(IdentityUnavailable):
        await verify(token())


async def test_known_keys_stay_valid_while_the_issuer_is_unreachable(
    verify: Any, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await verify(token())
    issuer.document = lambda: b"no keys"  # type: ignore[method-assign]
    monkeypatch.setattr(jwks, "LIFETIME", 0.0)
    monkeypatch.setattr(jwks, "COOLDOWN", 0.0)
    assert await verify(token())


async def test_an_issuer_that_never_answers_holds_up_no_known_key(
    verify: Any, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await verify(token())
    asked, hung = threading.Event(), threading.Event()

    def hang() -> bytes:
        asked.set()
        hung.wait(jwks.TIMEOUT)
        return b"no keys"

    issuer.document = hang  # type: ignore[method-assign]
    monkeypatch.setattr(jwks, "LIFETIME", 0.0)
    monkeypatch.setattr(jwks, "COOLDOWN", 0.0)
    monkeypatch.setattr(jwks, "PATIENCE", 0.01)
    for _ in range(3):
        assert await verify(token())
    assert await asyncio.to_thread(asked.wait, jwks.TIMEOUT)
    assert not hung.is_set()
    hung.set()


async def test_the_issuer_is_trusted_again_once_it_answers(
    verify: Any, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await verify(token())
    document = issuer.document
    issuer.document = lambda: b"no keys"  # type: ignore[method-assign]
    monkeypatch.setattr(jwks, "LIFETIME", 0.0)
    monkeypatch.setattr(jwks, "COOLDOWN", 0.0)
    assert await verify(token())
    issuer.document = document  # type: ignore[method-assign]
    issuer.keys = {"two": rsa.generate_private_key(65537, 2048).public_key()}
    with suppress(Unauthenticated):  # in the end: the key was withdrawn meanwhile
        async with asyncio.timeout(jwks.TIMEOUT):
            while True:
                await verify(token())


async def test_a_shared_secret_can_replace_public_keys() -> None:
    verify = verifier(jwt_secret=SECRET).verify
    assert (await verify(token(key=SECRET, algorithm="HS256"))).principal == "ann"
    for forged in (token(key="t" * 40, algorithm="HS256"), token(), token(key=SECRET * 2, algorithm="HS512")):
        with pytest.raises(Unauthenticated):
            await verify(forged)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"jwt_issuer": "", "jwt_secret": SECRET}, "JWT_ISSUER"),
        ({"jwt_audience": "", "jwt_secret": SECRET}, "JWT_AUDIENCE"),
        ({}, "JWT_JWKS_URL"),
        ({"jwt_secret": SECRET, "jwt_jwks_url": "https://issuer.example/keys"}, "not both"),
        ({"jwt_secret": "short"}, "JWT_SECRET"),
        ({"jwt_jwks_url": "http://issuer.example/keys"}, "https"),
        ({"jwt_jwks_url": "file:///etc/passwd"}, "https"),
        ({"jwt_secret": SECRET, "jwt_algorithms": "RS256"}, "JWT_ALGORITHMS"),
        ({"jwt_jwks_url": "https://issuer.example/keys", "jwt_algorithms": "RS256,HS256"}, "JWT_ALGORITHMS"),
        ({"jwt_secret": SECRET, "jwt_algorithms": "none"}, "JWT_ALGORITHMS"),
    ],
    ids=str,
)
def test_invalid_jwt_settings_stop_the_start(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(AuthError, match=named) as raised:
        verifier(**settings)
    assert SECRET not in str(raised.value)


def test_a_shared_secret_of_the_minimum_length_is_enough() -> None:
    assert verifier(jwt_secret="s" * json_web_tokens.MIN_SECRET)
    with pytest.raises(AuthError, match="32 bytes"):
        verifier(jwt_secret="s" * (json_web_tokens.MIN_SECRET - 1))


def test_secrets_do_not_show_in_the_settings() -> None:
    settings = Settings(_env_file=None, secret=SECRET, jwt_secret=SECRET, store="redis://:pass@redis/0")
    for text in (repr(settings), str(settings)):
        assert SECRET not in text
        assert "pass@" not in text
