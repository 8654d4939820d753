"""The rules of prose that a machine can check: how docstrings begin, how long names of tests are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST_NAME = 60
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
RELATIVE_CLAUSE = re.compile(r"(What|Who|Whom|Whose|How|Whether|Where|When|Which|Why|That which)\b")
SOURCES = [
    path
    for folder in ("src", "sdk", "chains", "tests", "benchmarks", "scripts", "deploy")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if ".venv" not in path.parts and "node_modules" not in path.parts
]
TESTS = [path for path in SOURCES if path.name.startswith("test_")]


def begins_with_a_relative_clause(source: str) -> Iterator[int]:
    """Yield the lines of definitions whose docstring begins with a relative clause."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and RELATIVE_CLAUSE.match(ast.get_docstring(node) or ""):
            yield getattr(node, "lineno", 1)


def long_names(source: str) -> Iterator[str]:
    """Yield names of tests that are longer than a line of a report shows."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield from [node.name] if len(node.name) > LONGEST_NAME else []


def test_no_docstring_begins_with_a_relative_clause() -> None:
    found = [f"{path}:{line}" for path in SOURCES for line in begins_with_a_relative_clause(path.read_text("utf-8"))]
    assert found == []


def test_no_name_of_a_test_is_too_long() -> None:
    assert [f"{path}: {name}" for path in TESTS for name in long_names(path.read_text("utf-8"))] == []


@pytest.mark.parametrize(
    ("source", "lines"), [('def f():\n    """Who asks."""\n', [1]), ('def f():\n    """Whoever asks."""\n', [])]
)
def test_a_relative_clause_is_told_from_other_words(source: str, lines: list[int]) -> None:
    assert list(begins_with_a_relative_clause(source)) == lines


def test_a_long_name_is_seen() -> None:
    assert list(long_names(f"def test_{'a' * LONGEST_NAME}(): ...")) == [f"test_{'a' * LONGEST_NAME}"]
