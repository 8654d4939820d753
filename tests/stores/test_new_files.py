"""New SQLite files that several processes open at the same moment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import LIMIT
from tests.stores.openers import KINDS, OPENED, PROCESSES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_processes_that_open_a_new_file_together_all_start(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.stores.openers", kind, str(tmp_path / "new.sqlite")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert done.stdout.split("\n") == [OPENED] * PROCESSES + [""], done.stderr
