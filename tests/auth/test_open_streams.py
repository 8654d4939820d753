"""Streams that are open while their credential ends: by default they go on; with `credential_check` they end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Request

from streamserve import Chain
from streamserve.app import create_app
from streamserve.auth import Identity
from streamserve.auth.keys import KeyFile
from streamserve.settings import Settings
from tests.auth.support import AUDIENCE, ISSUER, SECRET, token
from tests.fakes import Gate, GatedModel, registry_of
from tests.limits import LIMIT
from tests.servers import serving

BODY = {"input": [["human", "hi"]]}


class Served:
    """A server whose model gives a token when the gate opens."""

    def __init__(self, guard: Any = None, **settings: Any) -> None:
        self.gate = Gate()
        chain = Chain(runnable=GatedModel(tokens=["a", "b", "c"], gate=self.gate))
        self.app = create_app(
            registry_of({"slow": chain}), Settings(_env_file=None, secret=SECRET, **settings), guard=guard
        )

    @contextmanager
    def stream(self, credential: str) -> Iterator[Iterator[str]]:
        """Start a run; yield the lines of its stream after the first token."""
        headers = {"Authorization": f"Bearer {credential}"}
        with serving(self.app) as url, httpx.Client(base_url=url, headers=headers, timeout=LIMIT) as client:
            self.gate.open()
            with client.stream("POST", "/slow/stream", json=BODY) as response:
                lines = response.iter_lines()
                assert any(line == "event: data" for line in lines)
                yield lines


def keys_of(folder: Path, **settings: Any) -> tuple[Served, KeyFile, str]:
    file = KeyFile(folder / "keys.json")
    key = file.add("ann")
    return Served(auth=f"keys:{file.path}", **settings), file, key


def last_event(lines: Iterator[str]) -> tuple[str, str]:
    """Return the kind and the data of the last block."""
    found = list(lines)
    kinds = [line.removeprefix("event: ") for line in found if line.startswith("event: ")]
    return kinds[-1], "".join(line for line in found[-3:] if line.startswith("data: "))


def test_a_stream_outlives_its_key_by_default(tmp_path: Path) -> None:
    served, file, key = keys_of(tmp_path)
    with served.stream(key) as lines:
        file.revoke(next(iter(file.all())).id)
        served.gate.open(2)
        assert last_event(lines)[0] == "end"


def test_with_checks_a_revoked_key_ends_its_stream(tmp_path: Path) -> None:
    served, file, key = keys_of(tmp_path, credential_check=0.02)
    with served.stream(key) as lines:
        file.revoke(next(iter(file.all())).id)
        kind, data = last_event(lines)
        served.gate.open(2)
    assert kind == "error"
    assert '"unauthenticated"' in data


@pytest.mark.parametrize(("lost", "found"), [('"write"', '"other"'), ('"bob"', '"ann"')], ids=["scope", "principal"])
def test_with_checks_a_key_that_lost_something_ends_its_stream(tmp_path: Path, lost: str, found: str) -> None:
    served, file, _ = keys_of(tmp_path, credential_check=0.02)
    with served.stream(file.add("bob", ["read", "write"])) as lines:
        file.path.write_text(file.path.read_text().replace(lost, found))
        kind, data = last_event(lines)
        served.gate.open(2)
    assert kind == "error"
    assert "lost a permission" in data


def test_with_checks_a_valid_key_keeps_its_stream(tmp_path: Path) -> None:
    served, file, key = keys_of(tmp_path, credential_check=0.001)
    with served.stream(key) as lines:
        file.add("bob")  # the file is read again
        served.gate.open(2)
        assert last_event(lines)[0] == "end"


def test_with_checks_an_expired_token_ends_its_stream() -> None:
    jwt: dict[str, Any] = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_secret": SECRET, "jwt_leeway": 0}
    served = Served(auth="jwt:", credential_check=0.05, **jwt)
    with served.stream(token(key=SECRET, algorithm="HS256", exp=time.time() + 3)) as lines:
        kind, data = last_event(lines)
        served.gate.open(2)
    assert kind == "error"
    assert "expired" in data


def test_with_checks_an_identity_of_the_team_expires() -> None:
    def named(request: Request) -> Identity:
        return Identity("ann", expires_at=time.time() + 1)

    served = Served(guard=named, credential_check=0.05)
    with served.stream("x") as lines:
        kind, data = last_event(lines)
        served.gate.open(2)
    assert (kind, "unauthenticated" in data) == ("error", True)


@pytest.mark.parametrize("check", [0, -1])
def test_an_interval_of_checks_is_above_zero(check: float) -> None:
    with pytest.raises(ValueError, match="credential_check"):
        Settings(_env_file=None, credential_check=check)
