"""Signed values: one secret, one purpose, one expiry."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from streamserve.auth import AuthError, signing
from streamserve.auth.signing import MIN_SECRET, Signer
from streamserve.errors import Unauthenticated
from streamserve.settings import Settings

NOW = 1_000.0
CONTENT = {"run": "x"}


@pytest.fixture
def signer(monkeypatch: pytest.MonkeyPatch) -> Signer:
    monkeypatch.setattr(signing, "time", SimpleNamespace(time=lambda: NOW))
    return Signer(b"s" * MIN_SECRET)


def test_a_secret_of_the_minimum_length_is_enough() -> None:
    assert Signer.of(Settings(_env_file=None, secret="s" * MIN_SECRET))
    with pytest.raises(AuthError, match="STREAMSERVE_SECRET"):
        Signer.of(Settings(_env_file=None, secret="s" * (MIN_SECRET - 1)))


def test_each_random_secret_is_another_one() -> None:
    first, second = (Signer.of(Settings(_env_file=None)) for _ in range(2))
    signed = first.sign("share", CONTENT, 2e10)
    assert first.read("share", signed)["run"] == "x"
    with pytest.raises(Unauthenticated):
        second.read("share", signed)


@pytest.mark.parametrize(
    ("settings", "concurrency", "warned"),
    [
        ({}, None, False),
        ({"workers": 1}, "2", False),
        ({"store": "redis://127.0.0.1"}, None, True),
        ({"workers": 2}, None, True),
        ({}, "2", True),
        ({"workers": 2, "secret": "s" * MIN_SECRET}, None, False),
    ],
    ids=str,
)
def test_a_random_secret_of_one_of_many_workers_is_reported(
    settings: dict[str, Any],
    concurrency: str | None,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    if concurrency is not None:
        monkeypatch.setenv("WEB_CONCURRENCY", concurrency)
    Signer.of(Settings(_env_file=None, **settings))
    assert ("STREAMSERVE_SECRET is not set" in caplog.text) is warned


@pytest.mark.parametrize(("expires_at", "valid"), [(NOW + 0.1, True), (NOW, False)])
def test_a_signed_value_is_valid_until_its_expiry(signer: Signer, expires_at: float, valid: bool) -> None:
    signed = signer.sign("session", CONTENT, expires_at)
    if valid:
        assert signer.read("session", signed) == {**CONTENT, "exp": expires_at}
    else:
        with pytest.raises(Unauthenticated, match="The session token has expired"):
            signer.read("session", signed)


def test_a_longer_value_than_the_servers_own_is_refused(signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    signed = signer.sign("share", CONTENT, NOW + 1)
    monkeypatch.setattr(signing, "MAX_LENGTH", len(signed))
    assert signer.read("share", signed)
    monkeypatch.setattr(signing, "MAX_LENGTH", len(signed) - 1)
    with pytest.raises(Unauthenticated, match="The share token is not valid"):
        signer.read("share", signed)
