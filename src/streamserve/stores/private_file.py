"""A SQLite file that only its owner may read, because runs and conversations hold what callers wrote."""

import os
from contextlib import suppress
from pathlib import Path


def make_private(path: Path) -> None:
    """Make a SQLite file and its folder; a file that exists keeps its mode, which may let a group read it.

    SQLite gives the files beside it (`-wal`, `-shm`) the same mode. A file that exists is not opened: closing it would
    end the locks of all connections of this process (https://www.sqlite.org/howtocorrupt.html, 2.2), so that another
    process would take itself for the last one, and remove the log in use.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):  # it exists, or SQLite says better what is wrong with the path
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o600))
