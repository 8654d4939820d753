"""SQLite files of runs and conversations: nobody but their owner may read them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from streamserve.app import create_app
from streamserve.settings import Settings
from streamserve.stores.private_file import make_private
from streamserve.stores.sqlite.schema import connect
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


def test_a_private_file_is_made_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "one" / "more" / "new.sqlite"
    for _ in range(2):
        make_private(path)
        assert (path.stat().st_mode & 0o777, path.read_bytes()) == (0o600, b"")


# Another process that opens the file, looks into it and closes it.
VISIT = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT data FROM probe").fetchall())
connection.close()
"""


def visited(path: Path) -> str:
    command = [sys.executable, "-c", VISIT, str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


def test_a_process_that_leaves_does_not_remove_a_log_in_use(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    with ExitStack() as stack:
        writer, _reader = (stack.enter_context(closing(connect(path))) for _ in range(2))
        writer.execute("INSERT INTO probe VALUES ('before')")
        assert visited(path) == "[('before',)]"
        writer.execute("INSERT INTO probe VALUES ('after')")
        assert visited(path) == "[('before',), ('after',)]"
