"""Read the documentation as code: the blocks of a page run in order against a real server.

    python              run in this process
    bash                run by bash; `make` verbs and `pip install` are only checked, `streamserve serve` really serves
    js                  run on the home page in Chromium
    ini                 settings: each is known and valid
    json, text, sse     the output of the block before; `...` stands for any text, an id or time for any other

A comment `<!-- not run: reason -->` right above a block leaves it out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OUTPUT = ("json", "text", "sse")
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.+?) -->")
_UUID = re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_TIME = re.compile(r"\b1[0-9]{9}\.[0-9]+\b")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its page, first line of code, language and code, and the reason if it is not run."""

    page: Path
    line: int
    language: str
    code: str
    not_run: str = ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Return the pages whose blocks run."""
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md")]
    return [*top, *sorted((ROOT / "docs").glob("*.md")), ROOT / "sdk" / "python" / "README.md"]


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    return list(_blocks(page, page.read_text("utf-8").splitlines()))


def _blocks(page: Path, lines: list[str]) -> Iterator[Block]:
    start: int | None = None
    language = reason = ""
    for number, line in enumerate(lines, 1):
        if not line.startswith("```"):
            continue
        if start is None:
            start, language = number, line[3:].strip()
            found = _NOT_RUN.search(lines[number - 2]) if number > 1 else None
            reason = found["reason"] if found else ""
        else:
            yield Block(page, start + 1, language, "\n".join(lines[start : number - 1]) + "\n", reason)
            start = None
    assert start is None, f"{page}: the block of line {start} has no end"


def assert_output(block: Block, printed: str) -> None:
    """Fail unless the printed text equals the text of the page."""
    if block.language == "json":
        assert _plain(json.loads(printed)) == _plain(json.loads(block.code)), f"{block}\n{printed}"
        return
    shown, real = (_normalised(text) for text in (block.code, printed))
    pattern = ".*?".join(re.escape(part) for part in shown.split("..."))
    assert re.fullmatch(pattern, real, re.DOTALL), f"{block} shows\n{shown}\nbut it is\n{real}"


def _normalised(text: str) -> str:
    text = _TIME.sub("TIME", _UUID.sub("ID", text)).replace("\r\n", "\n")
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value > 1e9:
        return "TIME"
    return _normalised(value) if isinstance(value, str) else value
