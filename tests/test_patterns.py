"""No regular expression of the two packages takes more than linear time, whatever text it reads."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from tests.patterns import slow_parts
from tests.test_house import SDK, SERVER

# Of `re`, the functions with a pattern; those of the first line need the whole text, or its beginning.
AT_BEGINNING = {"match", "fullmatch"}
FUNCTIONS = {"compile", "search", "findall", "finditer", "split", "sub", "subn", *AT_BEGINNING}


@dataclass(frozen=True)
class Found:
    """A pattern in the source.

    Args:
        place: module and line.
        pattern: the pattern, or None if it is made in a function.
        searched: the match may begin anywhere.
    """

    place: str
    pattern: str | bytes | None
    flags: int
    searched: bool


def patterns_of(name: str, path: Path) -> Iterator[Found]:
    """Yield the patterns of a module."""
    tree = ast.parse(path.read_text("utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and is_of_re(node.func)]
    if not calls:
        return
    module = import_module(name)
    for call in calls:
        pattern, flags = value_of(call.args[0], module), 0
        for given in (*call.args[1:], *(word.value for word in call.keywords)):
            value = value_of(given, module)
            flags |= value if isinstance(value, re.RegexFlag) else 0
        assert pattern is None or isinstance(pattern, str | bytes)
        yield Found(f"{name}:{call.lineno}", pattern, flags, not uses(call, tree) <= AT_BEGINNING)


def is_of_re(function: ast.expr) -> bool:
    return isinstance(function, ast.Attribute) and function.attr in FUNCTIONS and ast.unparse(function.value) == "re"


def value_of(expression: ast.expr, module: ModuleType) -> object:
    """Return the value of an expression at the module's level, or None if it needs a function's names."""
    try:
        return eval(ast.unparse(expression), vars(module))
    except NameError:
        return None


def uses(call: ast.Call, tree: ast.Module) -> set[str]:
    """Return the methods by which a pattern is used in its module: by its name, or all of them."""
    assert isinstance(call.func, ast.Attribute)
    if call.func.attr != "compile":
        return {call.func.attr}
    named = [node for node in tree.body if isinstance(node, ast.Assign) and node.value is call]
    if not named:
        return FUNCTIONS
    name = ast.unparse(named[0].targets[0])
    reads = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == name]
    return {node.attr for node in reads} or FUNCTIONS


FOUND = [found for house in (SERVER, SDK) for name, path in house.modules.items() for found in patterns_of(name, path)]


def test_patterns_are_found() -> None:
    assert {found.place.rpartition(":")[0] for found in FOUND} > {
        "streamserve.serving.config_keys",
        "streamserve.telemetry.redact",
        "streamserve_sdk.transport.sse",
    }


@pytest.mark.parametrize("found", FOUND, ids=[found.place for found in FOUND])
def test_a_pattern_takes_linear_time(found: Found) -> None:
    assert found.pattern is not None, "a pattern stands at the module's level, where this test reads it"
    assert slow_parts(found.pattern, found.flags, searched=found.searched) == [], found.pattern


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+b", r"(a*)*", r"(a|a)*b", r"^\s*\s+x", r"a+\d*?a+x", r"\{[^{}]*:[^{}]*\d{5}", r"\s+$", r"(?i)key\w*=",
        r"(?m)^\W*x", r"x.*y", r"eyJ[\w-]{4,}\.", r"[?&][\w-]*(?:token|key)[\w-]*=", r"(?<=a)\w+b", r"(?s:.*)x.*y",
    ],
)  # fmt: skip
def test_a_slow_pattern_is_seen(pattern: str) -> None:
    assert slow_parts(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        r"\d+(?:\.\d+)?", r"^\s*+\S+", r"\{[^{}:]*+:[^{}]*?x", r"(?<![\w-])eyJ[\w-]{4,}\.[\w-]+", r"(?:ab|cd){2,9}e",
        r"\A\w*x", r'^\{"(?:[^"\\]|\\.)*+"', r"a{0,9}b{0,9}a{0,9}", r"^[^]:\]]+:", r"(?P<id>[0-9a-f]{12})_[A-Z]{43}",
    ],
)  # fmt: skip
def test_a_fast_pattern_passes(pattern: str) -> None:
    assert slow_parts(pattern) == []
