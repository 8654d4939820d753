"""The registry: discovery of chains and reports of broken modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamserve.catalog.registry import BrokenModule, BrokenModules, Registry, discover
from tests.conftest import Team

WORKING = '''
    """Says the topic.

    More about it."""
    from langchain_core.runnables import RunnableLambda
    from streamserve import Chain

    chain = Chain(runnable=RunnableLambda(lambda given: given["topic"]))
'''


def the_broken(team: Team) -> BrokenModule:
    (broken,) = team.discover().broken
    return broken


def add_entry_point(root: Path, line: str) -> None:
    folder = root / "team_extension-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: team-extension\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[streamserve.chains]\n{line}\n")


def test_a_file_is_a_chain_under_its_name(team: Team) -> None:
    file = team.write("code_helper.py", WORKING)
    registry = team.discover()
    entry = registry.chains["code-helper"]
    assert registry.broken == ()
    assert (entry.name, entry.path, entry.module) == ("code-helper", "/code-helper", f"{team.package}.code_helper")
    assert Path(entry.file) == file
    assert entry.description == "Says the topic.\n\nMore about it."
    assert entry.runnable.invoke({"topic": "cats"}) == "cats"


def test_a_declared_description_comes_before_the_docstring(team: Team) -> None:
    team.write("joke.py", WORKING.replace("Chain(", 'Chain(description="Declared.", '))
    assert team.discover().chains["joke"].description == "Declared."


def test_a_module_without_a_docstring_has_an_empty_description(team: Team) -> None:
    team.write("joke.py", WORKING.replace('"""Says the topic.\n\n    More about it."""', ""))
    assert team.discover().chains["joke"].description == ""


def test_a_folder_with_an_init_is_a_chain(team: Team) -> None:
    team.write("story/__init__.py", WORKING + "    from . import scenes\n")
    team.write("story/scenes.py", "first = 1\n")
    assert list(team.discover().chains) == ["story"]


def test_names_with_a_leading_underscore_are_skipped(team: Team) -> None:
    team.write("_shared.py", "raise RuntimeError('imported')\n")
    team.write("_folder/__init__.py", "raise RuntimeError('imported')\n")
    team.write("joke.py", WORKING)
    assert team.discover() == Registry(team.discover().chains)
    assert list(team.discover().chains) == ["joke"]


def test_a_new_file_is_a_new_chain(team: Team) -> None:
    team.write("joke.py", WORKING)
    assert list(team.discover().chains) == ["joke"]
    team.write("chat.py", WORKING)
    assert list(team.discover().chains) == ["chat", "joke"]


@pytest.mark.parametrize("package", ["no_such_package", "no_such.package", "this"])
def test_a_package_that_is_missing_or_no_package_is_empty(package: str) -> None:
    assert discover(package) == Registry()


def test_an_installed_entry_point_is_a_chain(team: Team) -> None:
    team.write("joke.py", WORKING)
    extension = team.write("../extension_a.py", WORKING)
    add_entry_point(team.root, "far_away = extension_a:chain")
    registry = team.discover()
    assert list(registry.chains) == ["far-away", "joke"]
    assert Path(registry.chains["far-away"].file).resolve() == extension.resolve()


def test_an_entry_point_may_name_the_module_alone(team: Team) -> None:
    team.write("../extension_b.py", WORKING)
    add_entry_point(team.root, "far_away = extension_b")
    assert list(team.discover().chains) == ["far-away"]


def test_an_entry_point_whose_module_is_missing_is_reported(team: Team) -> None:
    add_entry_point(team.root, "far_away = no_such_extension:chain")
    assert "ModuleNotFoundError: No module named 'no_such_extension'" in str(the_broken(team))


def test_a_name_that_is_taken_is_reported_with_both_files(team: Team) -> None:
    file = team.write("joke.py", WORKING)
    team.write("../extension_c.py", WORKING)
    add_entry_point(team.root, "joke = extension_c")
    broken = the_broken(team)
    assert broken.module == "extension_c"
    assert f"the name 'joke' is taken by {file}" in broken.cause
    assert list(team.discover().chains) == ["joke"]


BROKEN = {
    "syntax error": ("import os\ndef (:\n", 2, "SyntaxError: invalid syntax"),
    "import error": ("\nimport no_such_module\n", 2, "ModuleNotFoundError: No module named 'no_such_module'"),
    "name not there": ("\n\nfrom os import no_such_name\n", 3, "ImportError: cannot import name 'no_such_name'"),
    "exception": ("a = 1\n\n\nvalue = {}['key']\n", 4, "KeyError: 'key'"),
    "exception without a text": ("raise ValueError\n", 1, "ValueError"),
    "exception in a helper": ("import json\n\njson.loads('{')\n", 3, "JSONDecodeError"),
    "SystemExit": ("import sys\nsys.exit(3)\n", 2, "SystemExit: 3"),
    "no Exception": ("class Odd(BaseException): ...\n\nraise Odd('odd')\n", 3, "Odd: odd"),
    "a cancellation": ("import asyncio\nraise asyncio.CancelledError\n", 2, "CancelledError"),
    "no text": (
        "class Odd(Exception):\n    def __str__(self):\n        raise SystemExit\n\nraise Odd\n",
        5,
        "Odd",
    ),
    "no chain": ('"""Nothing."""\n', None, "InvalidChain: declares no `chain = Chain(...)`"),
    "not a Chain": ("chain = 3\n", None, "InvalidChain: declares no `chain = Chain(...)`"),
    "no runnable": ("from streamserve import Chain\n\nchain = Chain(runnable=3)\n", 3, "InvalidChain: runnable: "),
    "unknown field": ("from streamserve import Chain\nchain = Chain(runable=3)\n", 2, "TypeError: "),
    "factory that raises": (
        "from streamserve import Chain\n\ndef make():\n    raise OSError('no disk')\n\nchain = Chain(runnable=make)\n",
        4,
        "OSError: no disk",
    ),
    "factory without a runnable": (
        "from streamserve import Chain\nchain = Chain(runnable=lambda: 3)\n",
        None,
        "InvalidChain: runnable: the function made a int",
    ),
    "bad example": (
        "from pydantic import BaseModel\nfrom langchain_core.runnables import RunnableLambda\n"
        "from streamserve import Chain\nclass Topic(BaseModel):\n    topic: str\n"
        "chain = Chain(runnable=RunnableLambda(str), input_type=Topic, examples=[{'topc': 'cats'}])\n",
        None,
        "InvalidChain: examples[0] does not fit the input type",
    ),
    "null byte": ("a = 1\n\0\n", None, "null bytes"),
}


@pytest.mark.parametrize(("text", "line", "cause"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_module_is_reported_with_file_line_and_cause(
    team: Team, text: str, line: int | None, cause: str
) -> None:
    file = team.write("bad.py", "x = 1\n")
    file.write_text(text, encoding="utf-8")
    broken = the_broken(team)
    assert (Path(broken.file), broken.line) == (file, line)
    assert cause in broken.cause
    assert str(broken).startswith(f"{file}:{line}: " if line else f"{file}: ")


@pytest.mark.parametrize("name", ["docs", "healthz", "metrics", "runs", "readyz", "redoc", "static", "ok", "threads"])
def test_a_name_of_the_servers_own_is_refused(team: Team, name: str) -> None:
    team.write(f"{name}.py", WORKING)
    assert f"the name {name!r} is reserved for the server: rename the file" in the_broken(team).cause


def test_a_name_that_does_not_fit_a_path_is_refused(team: Team) -> None:
    team.write("naïve.py", WORKING)
    assert "is not a valid path" in the_broken(team).cause


def test_one_report_names_all_broken_modules(team: Team) -> None:
    first, second = team.write("a.py", "raise ValueError('one')\n"), team.write("b.py", "import no_such_module\n")
    team.write("joke.py", WORKING)
    with pytest.raises(BrokenModules) as raised:
        team.discover().require_whole()
    assert str(raised.value).splitlines() == [
        "2 broken chain module(s):",
        f"  {first}:1: ValueError: one",
        f"  {second}:1: ModuleNotFoundError: No module named 'no_such_module'",
    ]


def test_a_broken_module_hides_no_other(team: Team) -> None:
    team.write("a.py", "raise ValueError\n")
    team.write("joke.py", WORKING)
    team.write("z.py", "raise SystemExit\n")
    assert list(team.discover().chains) == ["joke"]


def test_a_broken_package_is_reported_for_each_of_its_modules(team: Team) -> None:
    team.write("__init__.py", "raise ValueError('the package')\n")
    team.write("joke.py", WORKING)
    assert "ValueError: the package" in the_broken(team).cause


def test_a_keyboard_interrupt_is_no_broken_module(team: Team) -> None:
    team.write("a.py", "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        team.discover()
