"""The files of other projects that the wheel brings are those of their own distributions."""

from __future__ import annotations

import hashlib
from pathlib import Path

STATIC = Path(__file__).parents[1] / "src/streamserve/pages/static"


def test_swagger_ui_is_unchanged() -> None:
    lines = (STATIC / "swagger-ui.sha256").read_text().splitlines()[1:]
    kept = {name: digest for digest, name in (line.split() for line in lines)}
    assert kept.keys() == {path.name for path in STATIC.glob("swagger-ui*")} - {"swagger-ui.sha256"}
    assert {name: hashlib.sha256((STATIC / name).read_bytes()).hexdigest() for name in kept} == kept
