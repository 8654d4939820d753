"""API keys: created, kept as hashes, rotated and revoked while the server runs."""

from __future__ import annotations

import json
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from streamserve.auth import AuthError, keys
from streamserve.auth.keys import FORM, KeyFile, digest
from streamserve.cli.main import main
from streamserve.errors import Unauthenticated


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json")


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["key", *arguments])
    assert result.exit_code == 0, result.output
    return result.output.strip()


async def test_a_key_names_its_principal_and_scopes(file: KeyFile) -> None:
    identity = await file.verify(file.add("ann", ["talk", "listen"]))
    assert (identity.principal, sorted(identity.scopes)) == ("ann", ["listen", "talk"])


def test_the_file_keeps_only_the_hash_of_a_key(file: KeyFile) -> None:
    key = file.add("ann")
    text = file.path.read_text()
    assert FORM.fullmatch(key)
    assert key.rpartition("_")[2] not in text
    assert digest(key) in text


async def test_a_changed_key_is_invalid(file: KeyFile) -> None:
    key, other = file.add("ann"), file.add("bob")
    swapped = other[: len("streamserve_") + 12] + key[len("streamserve_") + 12 :]
    for wrong in (key[:-1] + ("A" if key[-1] != "A" else "B"), swapped, key.upper(), key + "x", "", "é", digest(key)):
        with pytest.raises(Unauthenticated):
            await file.verify(wrong)


async def test_old_and_new_keys_work_while_a_principal_changes_them(file: KeyFile) -> None:
    old = file.add("ann")
    serving = KeyFile(file.path)
    serving.load()
    new = file.add("ann")
    assert (await serving.verify(old)).principal == (await serving.verify(new)).principal == "ann"
    file.revoke(old.split("_")[1])
    assert (await serving.verify(new)).principal == "ann"
    with pytest.raises(Unauthenticated):
        await serving.verify(old)


async def test_a_key_expires(file: KeyFile) -> None:
    assert await file.verify(file.add("ann", (), time.time() + 60))
    with pytest.raises(Unauthenticated, match="expired"):
        await file.verify(file.add("ann", (), time.time() - 0.1))


async def test_a_key_expires_at_its_expiry(file: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "time", SimpleNamespace(time=lambda: 1_000.0))
    assert await file.verify(file.add("ann", (), 1_000.1))
    with pytest.raises(Unauthenticated, match="expired"):
        await file.verify(file.add("ann", (), 1_000.0))


async def test_an_unchanged_file_is_read_once(file: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    key = file.add("ann")
    serving, reads = KeyFile(file.path), []
    load = serving.load
    monkeypatch.setattr(serving, "load", lambda: (reads.append(1), load()))
    for _ in range(3):
        assert await serving.verify(key)
    assert reads == [1]


def test_keys_added_at_the_same_time_are_all_kept(file: KeyFile) -> None:
    names = [f"ann-{number}" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda name: KeyFile(file.path).add(name), names))
    assert {key.principal for key in file.all()} == set(names)
    assert len(set(added)) == len(names)


def test_the_file_is_readable_and_keeps_its_mode(file: KeyFile) -> None:
    before = os.umask(0o077)
    try:
        file.add("ann")
        assert stat.S_IMODE(file.path.stat().st_mode) == 0o644
        file.path.chmod(0o640)
        file.add("bob")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o640
    assert file.path.read_text().startswith('{\n  "keys": [\n    {\n      "id": "')
    assert {path.name for path in file.path.parent.iterdir()} == {"keys.json", "keys.json.lock"}


async def test_an_invalid_file_keeps_the_previous_keys(file: KeyFile, caplog: pytest.LogCaptureFixture) -> None:
    key = file.add("ann")
    file.path.write_text("{")
    assert await file.verify(key)
    assert "the previous keys stay valid" in caplog.text


async def test_a_deleted_file_revokes_all_keys(file: KeyFile) -> None:
    key = file.add("ann")
    file.path.unlink()
    with pytest.raises(Unauthenticated):
        await file.verify(key)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "create one"),
        ("", "of keys: file: "),
        ("[]", "of keys: file: "),
        ('{"keys": [{"id": "x"}]}', r"of keys: keys\.0\.id: .*; keys\.0\.principal: "),
        ('{"secrets": []}', "of keys: secrets: "),
    ],
)
def test_a_missing_or_invalid_file_stops_the_start(file: KeyFile, text: str | None, said: str) -> None:
    if text is not None:
        file.path.write_text(text)
    with pytest.raises(AuthError, match=rf"keys\.json.*{said}"):
        file.load()


def test_an_invalid_field_is_named_without_its_value(file: KeyFile) -> None:
    file.add("ann")
    stored = json.loads(file.path.read_text())
    stored["keys"][0]["hash"] = "a key in plain text"
    file.path.write_text(json.dumps(stored))
    with pytest.raises(AuthError, match=r"keys\.0\.hash") as raised:
        file.load()
    assert "plain text" not in str(raised.value)


def test_commands_create_list_and_revoke_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMSERVE_AUTH", f"keys:{tmp_path / 'keys.json'}")
    key = run("new", "ann", "--scope", "talk", "--scope", "listen", "--expires", "90d")
    run("new", "bob")
    assert FORM.fullmatch(key)
    first, second = run("list").splitlines()
    key_id = key.split("_")[1]
    assert first.startswith(f"{key_id}  ann  listen,talk  until 20")
    assert second.endswith("  bob  -  no end")
    assert run("revoke", key_id) == f"revoked {key_id} of ann"
    assert "ann" not in run("list")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["new", ""], "1 to 255 characters"),
        (["new", "a\nb"], "printable"),
        (["new", "ann", "--expires", "soon"], "--expires: 12h"),
        (["revoke", "0123456789ab"], "no key 0123456789ab"),
        (["list"], "streamserve key new"),
    ],
)
def test_the_command_names_an_invalid_argument(tmp_path: Path, arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["key", "--file", str(tmp_path / "keys.json"), *arguments])
    assert result.exit_code == 1
    assert said in result.output


def test_the_command_asks_for_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["key", "list"])
    assert (result.exit_code, "--file" in result.output) == (2, True)
