"""Files that the server and the Python client both need; each has a copy, because neither depends on the other."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COPIES = {
    "src/streamserve/events/compact_form.py": "sdk/python/src/streamserve_sdk/events/compact_form.py",
}


@pytest.mark.parametrize("original", COPIES)
def test_both_copies_of_a_shared_file_are_the_same(original: str) -> None:
    copy = COPIES[original]
    assert (ROOT / copy).read_bytes() == (ROOT / original).read_bytes(), f"cp {original} {copy}"
