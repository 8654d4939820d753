"""The caller's identity: its name, and the end of its credential."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request

from streamserve.auth import Identity, identity
from streamserve.auth.identity import MAX_NAME, claims_of, scopes_of
from streamserve.errors import Unauthenticated

NOW = 1_000.0


def a_request() -> Request:
    return Request({"type": "http", "headers": [], "state": {}})


@pytest.mark.parametrize("name", ["", "a\nb", "a" * (MAX_NAME + 1), 5, None], ids=lambda name: f"{name!r:.8}")
def test_a_name_is_a_printable_text_of_bounded_length(name: Any) -> None:
    with pytest.raises(ValueError, match="principal's name"):
        Identity(name)
    assert [Identity("a" * length).principal for length in (1, MAX_NAME)] == ["a", "a" * MAX_NAME]


@pytest.mark.parametrize(("expires_at", "valid"), [(None, True), (NOW + 0.1, True), (NOW, False), (NOW - 1, False)])
async def test_a_credential_is_valid_until_its_expiry(
    expires_at: float | None, valid: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "time", SimpleNamespace(time=lambda: NOW))
    known = Identity("ann", expires_at=expires_at)
    if valid:
        await known.require_unexpired()
    else:
        with pytest.raises(Unauthenticated, match="expired"):
            await known.require_unexpired()


def test_a_request_carries_the_whole_identity() -> None:
    request = a_request()
    Identity("ann", frozenset({"talk"}), claims={"team": "a"}).attach(request)
    assert (request.state.principal, scopes_of(request), claims_of(request)) == ("ann", {"talk"}, {"team": "a"})
    assert not hasattr(request.state, "recheck")


def test_a_request_without_an_identity_has_no_claims() -> None:
    assert (scopes_of(a_request()), claims_of(a_request())) == (frozenset(), {})
    assert claims_of(Request({"type": "http", "headers": []})) == {}
