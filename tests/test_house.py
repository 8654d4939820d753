"""The structure of the two packages: which way their rooms import, and how full a folder may be."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Somebody new reads a folder's files at a glance; the packages that the field holds up have no more at their top.
MOST_MODULES = 22


@dataclass(frozen=True)
class House:
    """One package, and its rooms from the ground up: a module imports from its own room and from those before it.

    Args:
        package: folder of the package.
        order: rooms from the ground up; "" is the package's own `__init__.py`.
    """

    package: Path
    order: tuple[str, ...]

    @cached_property
    def modules(self) -> dict[str, Path]:
        """Dotted names and files of all modules."""
        parent = self.package.parent
        return {
            ".".join(path.relative_to(parent).with_suffix("").parts).removesuffix(".__init__"): path
            for path in sorted(self.package.rglob("*.py"))
        }

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """For each module, the modules of the package that it imports: in functions and for type checkers as well."""
        return {name: self._imported(path) for name, path in self.modules.items()}

    def _imported(self, path: Path) -> set[str]:
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}:{node.lineno}: a relative import"
                names = {f"{node.module}.{alias.name}" for alias in node.names} & self.modules.keys()
                found |= names or ({node.module or ""} & self.modules.keys())
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names} & self.modules.keys()
        return found

    @staticmethod
    def room(module: str) -> str:
        """Name of the room that a module is in."""
        return module.partition(".")[2].partition(".")[0]

    def upward(self) -> list[str]:
        """Imports that run against the order."""
        floor = self.order.index
        return [
            f"{module} imports {other}"
            for module, others in self.imports.items()
            for other in others
            if floor(self.room(other)) > floor(self.room(module))
        ]


SERVER = House(
    ROOT / "src/streamserve",
    (
        *("user", "call", "settings", "private_names", "fast_paths", "errors"),
        *("stores", "catalog", "lcel", "wire"),
        *("models", "http", "graphs", "events", "auth"),
        *("runs", "telemetry", "api", "serving", "doors", "pages", "lifespan", "library", "app", "cli", ""),
    ),
)
SDK = House(
    ROOT / "sdk/python/src/streamserve_sdk",
    (
        "errors",
        "private_names",
        "transport",
        "codec",
        "chain_client",
        "graphs",
        "events",
        "runs",
        "schemas",
        "remote",
        "",
    ),
)
houses = pytest.mark.parametrize("house", [SERVER, SDK], ids=["server", "sdk"])


@houses
def test_every_room_has_its_place_in_the_order(house: House) -> None:
    assert {house.room(module) for module in house.modules} == set(house.order)


@houses
def test_imports_run_from_upper_rooms_to_lower_ones(house: House) -> None:
    assert house.upward() == []


@houses
def test_no_modules_import_each_other_in_a_loop(house: House) -> None:
    # A package's __init__ hands on names of its modules; they import each other directly.
    assert list(TopologicalSorter(house.imports).static_order())


@houses
def test_no_folder_is_too_full(house: House) -> None:
    counted = {path.parent: len(list(path.parent.glob("*.py"))) for path in house.modules.values()}
    assert {str(folder): count for folder, count in counted.items() if count > MOST_MODULES} == {}


def test_events_and_graphs_of_the_sdk_are_apart() -> None:
    tied = {(SDK.room(module), SDK.room(other)) for module, others in SDK.imports.items() for other in others}
    assert not tied & {("events", "graphs"), ("graphs", "events")}


def test_an_import_against_the_order_is_seen(tmp_path: Path) -> None:
    (tmp_path / "house/low").mkdir(parents=True)
    (tmp_path / "house/__init__.py").touch()
    (tmp_path / "house/high.py").touch()
    (tmp_path / "house/low/__init__.py").write_text("def late():\n    from house import high\n")
    house = House(tmp_path / "house", ("low", "high", ""))
    assert house.upward() == ["house.low imports house.high"]


def test_the_architecture_page_names_every_room() -> None:
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    missing = [room for room in SERVER.order if room and f"`{room}/`" not in page and f"`{room}.py`" not in page]
    assert missing == []


def test_the_architecture_page_names_every_private_name() -> None:
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    found = {path.name for path in (SERVER.package / "private_names").glob("*.py")} - {"__init__.py"}
    assert {name for name in found if f"`{name}`" not in page} == set()


def test_the_architecture_page_names_files_that_exist() -> None:
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", page)
    assert named
    assert [name for name in named if not any((root / name).exists() for root in (SERVER.package, ROOT))] == []
