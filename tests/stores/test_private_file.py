"""SQLite files of runs and conversations: nobody but their owner may read them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamserve.app import create_app
from streamserve.settings import Settings
from tests.auth.support import CHAINS
from tests.fakes import registry_of
from tests.runs.support import client_of


@pytest.fixture(autouse=True)
def mask() -> Iterator[None]:
    """Let new files be readable by everybody, as most systems do."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    """Serve one turn of a conversation from SQLite; return the mode of each file while the server runs."""
    settings = Settings(store=f"sqlite:///{folder}/runs.sqlite", _env_file=None)
    body = {"input": {"messages": [["human", "hi"]]}, "config": {"configurable": {"thread_id": "1"}}}
    with client_of(create_app(registry_of(CHAINS), settings)) as client:
        assert client.post("/bot/stream", json=body).status_code == 200
        return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


def test_new_sqlite_files_are_private(tmp_path: Path) -> None:
    found = modes(tmp_path / "new")
    assert {"runs.sqlite", "runs.sqlite-wal", "runs.checkpoints.sqlite", "runs.checkpoints.sqlite-wal"} <= set(found)
    assert set(found.values()) == {0o600}


def test_an_existing_sqlite_file_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "runs.sqlite").touch(0o640)
    found = modes(tmp_path)
    assert (found["runs.sqlite"], found["runs.sqlite-wal"]) == (0o640, 0o640)
